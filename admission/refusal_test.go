package admission

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestEveryCodeHasASentence(t *testing.T) {
	seen := map[string]Code{}
	for c := CodeWrongSecret; c <= CodeInternal; c++ {
		for _, s := range []string{c.String(), c.Sentence()} {
			if other, ok := seen[s]; ok || s == "" {
				t.Errorf("code %d says %q, as code %d does", uint8(c), s, uint8(other))
			}
			seen[s] = c
		}
		if strings.HasPrefix(c.String(), "code_") || len(c.Sentence()) < 30 {
			t.Errorf("code %d: %q, %q", uint8(c), c, c.Sentence())
		}
	}
	if got := Code(200).Sentence(); !strings.Contains(got, "code 200") {
		t.Error(got)
	}
}

func TestRefusalTextIsCleanedForTheWire(t *testing.T) {
	for _, text := range []string{"\x1b]0;x\a", "a\nb", "\xff\xfe", strings.Repeat("ü", 300), "plain", "\u202e", ""} {
		f := (&Refusal{Code: CodeScope, Detail: text, Other: text}).frame()
		var m refused
		if err := decode(f, &m); err != nil {
			t.Errorf("%q: %v", text, err)
		}
		if !utf8.ValidString(m.Detail) || len(m.Detail) > maxDetail {
			t.Errorf("%q became %q", text, m.Detail)
		}
	}
}

func TestRefusalNamesTheLabel(t *testing.T) {
	got := (&Refusal{Code: CodeScope, Detail: "tier:db"}).Error()
	if got != "admission: refused: the enrolment secret does not cover a label that was asked for (tier:db)" {
		t.Error(got)
	}
}
