package enter

// What Inside does.
const (
	Exec = "exec" // becomes a program
	Push = "push" // writes its standard input to a file
	Pull = "pull" // writes a file to its standard output
)

// Request says what is to be done in a zone.
type Request struct {
	Kind    string   `json:"kind"`
	Command []string `json:"command,omitempty"` // program and arguments; empty: the user's login shell
	Env     []string `json:"env,omitempty"`     // NAME=VALUE, before what a login sets
	User    string   `json:"user,omitempty"`    // name or number; empty: root
	Dir     string   `json:"dir,omitempty"`     // empty: the user's home
	TTY     *Size    `json:"tty,omitempty"`     // a terminal of this size
	Path    string   `json:"path,omitempty"`    // Push, Pull
	Mode    uint32   `json:"mode,omitempty"`    // Push: of a new file; 0: 0644
	Bounds  uint64   `json:"bounds"`            // capabilities that may be had (capabilities(7), bounding set)
}

// Size is a terminal's, in characters.
type Size struct{ Rows, Columns uint16 }

// Exit statuses of what could not be done: as those of a shell.
const (
	statusFailed   = 126
	statusNotFound = 127
)

// maxRequest is the length of the longest Request as JSON, in bytes.
const maxRequest = 64 << 10
