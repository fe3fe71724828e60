// Command nereid-stub is /init of Nereid's initrd; see package stub.
package main

import (
	"context"
	"fmt"
	"os"

	"nereid/platform/stub"
)

func main() {
	if err := stub.Boot(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "nereid-stub:", err)
		os.Exit(1)
	}
}
