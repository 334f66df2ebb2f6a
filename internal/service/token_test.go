package service

import (
	"strings"
	"testing"
)

// TestYAMLTokenErrorsKeepSecrets puts a secret into every place of a YAML token
// where it does not belong: the error names the place, and never its text.
func TestYAMLTokenErrorsKeepSecrets(t *testing.T) {
	const secret = "Zm9vYmFyYmF6cXV4MTIz"
	const head = "icvpn_token: 1\nservice_name: shop\nservice: 0123456789012345678901234567890123456789\n"
	for _, tt := range []struct{ name, text, want string }{
		{"key", head + secret + ": x\n", "line 4, column 1"},
		{"key beside a value", head + "secret_id: web\n" + secret + ": \n", "line 5, column 1"},
		{"quoted key", head + "\"" + secret + "\": x\n", "line 4, column 1"},
		{"key of a super peer", head + "super_peers:\n- " + secret + ": x\n", "line 5, column 3"},
		{"key there twice", head + secret + ": x\n" + secret + ": x\n", "line 5, column 1"},
		{"alias", head + "secret: *" + secret + "\n", `field "secret"`},
		{"alias as a key", head + "*" + secret + ": x\n", "line 4"},
		{"anchor without a value", head + "secret: &" + secret + "\n", "cannot be read"},
		{"tag", head + "secret: !" + secret + "\n", "secret"},
		{"tag of a number", head + "min_sequence: !!int " + secret + "\n", "min_sequence"},
		{"number", head + "min_sequence: " + secret + "\n", `line 4, column 15, field "min_sequence"`},
		{"version", "icvpn_token: " + secret + "\nservice_name: shop\n", `line 1, column 14, field "icvpn_token"`},
		{"text in the place of a list", head + "super_peers: " + secret + "\n", `field "super_peers"`},
		{"list in the place of text", head + "secret: [" + secret + "]\n", `field "secret"`},
		{"section in the place of text", head + "secret: {" + secret + ": 1}\n", `field "secret"`},
		{"open list", head + "super_peers: [" + secret + "\n", "line 4"},
		{"open quote", head + "secret: '" + secret + "\n", "line 4"},
		{"value after a value", head + "secret_id: web\n  " + secret + "\n" + secret + "\n", "line"},
		{"directive", "%" + secret + "\n---\n" + head, "the token"},
		{"ServiceID", "icvpn_token: 1\nservice_name: shop\nservice: " + secret + "\n", `"service"`},
		{"secret that is not base64url", head + "secret: \"" + secret + "!\"\n", `"secret"`},
		{"super peer's key", head + "super_peers:\n- endpoint: a:1\n  key: " + secret + "!\n", `"super_peers[1].key"`},
		{"short key", head + "secret_id: web\nsecret: c2VjcmV0c2VjcmV0c2VjcmV0\nsuper_peers:\n- endpoint: a:1\n  key: " + secret + "\n", "super peer 1"},
		{"endpoint", head + "secret_id: web\nsecret: c2VjcmV0c2VjcmV0c2VjcmV0\nsuper_peers:\n- endpoint: " + secret + "\n", "super peer 1"},
		{"name", "icvpn_token: 1\nservice_name: " + secret + "\nservice: 0123456789012345678901234567890123456789\n", "no valid service"},
		{"line that begins like a token", "icvpn" + secret + ":\n", "not an icvpn token"},
		{"token of a later version", "icvpn12:" + secret + "\n", `"icvpn12:"`},
		{"something else", secret + "\n", "not an icvpn token"},
	} {
		_, err := ParseToken([]byte(tt.text))
		switch {
		case err == nil:
			t.Errorf("%s: no error", tt.name)
		case strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), secret[:8]):
			t.Errorf("%s: the error repeats the secret: %v", tt.name, err)
		case !strings.Contains(err.Error(), tt.want):
			t.Errorf("%s: %v, want %s", tt.name, err, tt.want)
		}
	}
}
