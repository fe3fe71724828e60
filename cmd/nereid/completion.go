package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"
)

// completionLimit is how long a shell waits for the head node when it completes.
const completionLimit = 2 * time.Second

// documentCompletion gives cobra's own commands the examples every command has.
func documentCompletion(c *cobra.Command) {
	c.Example = lines("source <(nereid completion bash)", "nereid completion zsh > /usr/local/share/zsh/site-functions/_nereid")
	c.Args, c.RunE = verbOf, needsVerb
	for shell, example := range map[string]string{
		"bash":       "nereid completion bash > /etc/bash_completion.d/nereid",
		"zsh":        "nereid completion zsh > /usr/local/share/zsh/site-functions/_nereid",
		"fish":       "nereid completion fish > ~/.config/fish/completions/nereid.fish",
		"powershell": "nereid completion powershell | Out-String | Invoke-Expression",
	} {
		for _, sub := range c.Commands() {
			if sub.Name() == shell {
				sub.Example = lines(example)
			}
		}
	}
}

// completePlatforms offers stamps.
func (a *app) completePlatforms(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	c, err := a.api()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), completionLimit)
	defer cancel()
	ps, err := c.Platforms(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var out []cobra.Completion
	for _, p := range ps {
		out = append(out, cobra.CompletionWithDesc(p.Manifest.Stamp, oneLine(platformNote(p))))
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

func (a *app) completeTokens(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	c, err := a.api()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), completionLimit)
	defer cancel()
	tokens, err := c.Tokens(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var out []cobra.Completion
	for _, t := range tokens {
		out = append(out, cobra.CompletionWithDesc(t.ID, oneLine(t.Name)))
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}
