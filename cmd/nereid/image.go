package main

import "github.com/spf13/cobra"

func (a *app) imageCommand() *cobra.Command {
	return noun("image", "Images of zones: build",
		lines("nereid image build debian --out ./debian", "nereid image build tiny --out ./tiny"),
		a.imageBuild())
}
