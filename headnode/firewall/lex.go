package firewall

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

type tokenKind int

const (
	tokenEnd    tokenKind = iota
	tokenWord             // keyword, name, number, address ...
	tokenString           // in quotes; text is what they hold
	tokenPunct            // one of ( ) , =
	tokenBad              // err says why
)

// token is a piece of a rule, text[pos:end].
type token struct {
	kind     tokenKind
	text     string
	keyword  string // a short word, in capitals; words are ASCII
	pos, end int
	err      *SyntaxError
}

// maxKeyword is the length of a word that could be a keyword, or be meant as one.
const maxKeyword = 16

func (t token) is(punct string) bool { return t.kind == tokenPunct && t.text == punct }

// lex gives the token that begins at pos or behind the white space there.
func lex(text string, pos int) token {
	for pos < len(text) {
		r, n := utf8.DecodeRuneInString(text[pos:])
		if !unicode.IsSpace(r) && r != '\uFEFF' { // a byte order mark: editors leave it
			break
		}
		pos += n
	}
	if pos == len(text) {
		return token{kind: tokenEnd, pos: pos, end: pos}
	}
	switch c := text[pos]; {
	case strings.IndexByte("(),=", c) >= 0:
		return token{kind: tokenPunct, text: text[pos : pos+1], pos: pos, end: pos + 1}
	case c == '"':
		return lexString(text, pos)
	case !isWord(c):
		return bad(text, pos, pos)
	}
	end := pos
	for end < len(text) && isWord(text[end]) {
		end++
	}
	t := token{kind: tokenWord, text: text[pos:end], pos: pos, end: end}
	if len(t.text) <= maxKeyword {
		t.keyword = strings.ToUpper(t.text)
	}
	return t
}

// isWord says whether a byte can stand in a word: visible ASCII but what has a
// meaning of its own.
func isWord(c byte) bool {
	return c > ' ' && c < 0x7f && strings.IndexByte(`(),="`, c) < 0
}

// bad is a token with a character at offset at that cannot be there.
func bad(text string, pos, at int) token {
	r, n := utf8.DecodeRuneInString(text[at:])
	var err *SyntaxError
	switch {
	case r == utf8.RuneError && n <= 1:
		err = newSyntaxError(text, at, "not UTF-8", "")
	case strings.ContainsRune("\u201c\u201d\u201e\u201f\u00ab\u00bb\u2018\u2019", r):
		err = newSyntaxError(text, at, fmt.Sprintf("found the quote %c", r), `names are quoted with "`)
	case unicode.IsPrint(r):
		err = newSyntaxError(text, at, fmt.Sprintf("%q outside quotes", r), "quote a name that has such characters, as \"caf\u00e9\"")
	default:
		err = newSyntaxError(text, at, fmt.Sprintf("character %U outside quotes", r), "")
	}
	return token{kind: tokenBad, pos: pos, end: len(text), err: err}
}

// lexString reads the string whose quote is at pos.
func lexString(text string, pos int) token {
	fail := func(at int, msg, hint string, expected ...string) token {
		return token{kind: tokenBad, pos: pos, end: len(text), err: newSyntaxError(text, at, msg, hint, expected...)}
	}
	var b strings.Builder
	for i := pos + 1; i < len(text); {
		switch c := text[i]; {
		case c == '"':
			return token{kind: tokenString, text: b.String(), pos: pos, end: i + 1}
		case c == '\\':
			r, n := unescape(text[i:])
			if n == 0 {
				return fail(i, "unknown escape", `write \\ for one backslash`, `\"`, `\\`, `\/`, `\(`, `\)`, `\b`, `\f`, `\n`, `\r`, `\t`, `\uHHHH`)
			}
			b.WriteRune(r)
			i += n
		default:
			r, n := utf8.DecodeRuneInString(text[i:])
			if r == utf8.RuneError && n == 1 {
				return fail(i, "not UTF-8", "")
			}
			b.WriteString(text[i : i+n])
			i += n
		}
	}
	return fail(pos, "string without an end", `it ends at the next "; a quote inside is written \"`)
}

// unescape gives the character that the escape at the start of s stands for, and
// the escape's length; 0 when it is none.
func unescape(s string) (rune, int) {
	if len(s) < 2 {
		return 0, 0
	}
	if i := strings.IndexByte(`"\/()bfnrt`, s[1]); i >= 0 {
		return rune("\"\\/()\b\f\n\r\t"[i]), 2
	}
	r, ok := unescape16(s)
	if !ok {
		return 0, 0
	}
	if !utf16.IsSurrogate(r) {
		return r, 6
	}
	low, ok := unescape16(s[6:])
	if r = utf16.DecodeRune(r, low); !ok || r == utf8.RuneError {
		return 0, 0
	}
	return r, 12
}

// unescape16 reads \uHHHH.
func unescape16(s string) (rune, bool) {
	if len(s) < 6 || s[:2] != `\u` {
		return 0, false
	}
	v, err := strconv.ParseUint(s[2:6], 16, 16)
	return rune(v), err == nil
}

// quote writes a string that lexString reads. What cannot be told apart or seen
// on a screen is escaped.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		if i := strings.IndexRune("\"\\\b\f\n\r\t", r); i >= 0 {
			b.WriteByte('\\')
			b.WriteByte(`"\bfnrt`[i])
			continue
		}
		if unicode.IsPrint(r) {
			b.WriteRune(r)
			continue
		}
		for _, u := range utf16.AppendRune(nil, r) {
			fmt.Fprintf(&b, `\u%04x`, u)
		}
	}
	b.WriteByte('"')
	return b.String()
}
