package api

// PackageUpdate changes what may be changed of a package; absent fields stay.
type PackageUpdate struct {
	Active      *bool     `json:"active,omitempty" doc:"false: no new instance may use it; those that there are keep it"`
	Owners      *[]string `json:"owner_uuids,omitempty"`
	Group       *string   `json:"group,omitempty"`
	Description *string   `json:"description,omitempty"`
}
