package config

import (
	"fmt"
	"strings"
)

// Example returns a complete annotated configuration. Every line that only
// repeats a default is commented out.
func Example(role Role) string {
	fields, head := PeerFields(), "# Configuration of an icvpn peer: icvpn up --config FILE\n"
	if role == RoleSuper {
		fields, head = SuperFields(), "# Configuration of an icvpn super peer: icvpn super --config FILE\n"
	}
	var b strings.Builder
	b.WriteString(head)
	b.WriteString("# Flags override environment variables, those override this file.\n")
	b.WriteString("# Relative paths are relative to this file. All fields are read at start.\n")
	open := ""
	for _, f := range fields {
		section, leaf, nested := strings.Cut(f.Key, ".")
		if !nested {
			section, leaf = "", f.Key
		}
		if section != open || !nested {
			b.WriteString("\n")
		}
		if section != open && nested {
			fmt.Fprintf(&b, "%s:\n", section)
		}
		open = section
		indent := strings.Repeat("  ", min(len(section), 1))
		standing := "Default: " + f.Default
		mark := "#"
		if f.Default == required {
			standing = "Required"
		}
		if f.Default == required || f.Key == "token_file" {
			mark = ""
		}
		fmt.Fprintf(&b, "%s# %s.\n%s# %s. Environment: %s.\n", indent, sentence(f.Doc), indent, standing, f.Env())
		fmt.Fprintf(&b, "%s%s%s: %s\n", indent, mark, leaf, f.Sample)
	}
	return b.String()
}

func sentence(s string) string { return strings.ToUpper(s[:1]) + s[1:] }
