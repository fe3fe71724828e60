package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode"

	"gopkg.in/yaml.v3"
)

// emit prints v for programs, or calls table to print it for people.
func (a *app) emit(v any, table func(w io.Writer) error) error {
	var b bytes.Buffer
	var err error
	switch a.output {
	case "json":
		err = writeJSON(&b, v)
	case "yaml":
		err = writeYAML(&b, v)
	default:
		err = table(&b)
	}
	if err != nil {
		return err
	}
	if _, err := a.stdout.Write(b.Bytes()); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

// done says in one sentence what was done, or prints the result for programs.
func (a *app) done(v any, format string, args ...any) error {
	return a.emit(v, func(w io.Writer) error {
		_, err := fmt.Fprintln(w, clean(fmt.Sprintf(format, args...)))
		return err
	})
}

func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// writeYAML prints v with the names and the order its JSON has.
func writeYAML(w io.Writer, v any) error {
	var b bytes.Buffer
	if err := writeJSON(&b, v); err != nil {
		return err
	}
	var doc yaml.Node // JSON is YAML in flow style
	if err := yaml.Unmarshal(b.Bytes(), &doc); err != nil {
		return fmt.Errorf("make YAML: %w", err)
	}
	blockStyle(&doc)
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	if err := enc.Encode(&doc); err != nil {
		return fmt.Errorf("make YAML: %w", err)
	}
	return enc.Close()
}

// blockStyle takes the flow style and the quotes away; the encoder quotes again
// what would not be a string otherwise.
func blockStyle(n *yaml.Node) {
	n.Style = 0
	for _, c := range n.Content {
		blockStyle(c)
	}
}

// clean takes out what could drive a terminal: hostnames, disk models and
// SMBIOS texts come from machines.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return r
		case unicode.IsControl(r), unicode.Is(unicode.Bidi_Control, r), r == unicode.ReplacementChar:
			return '?'
		}
		return r
	}, s)
}

// oneLine is clean for a cell.
func oneLine(s string) string {
	return strings.Join(strings.Fields(clean(s)), " ")
}
