package admission

import "testing"

func TestAdmissionOverTLS(t *testing.T) {
	w := newWorld(t)
	r := overTLS(t, w, testClientConfig(), nil)
	if r.clientErr != nil || r.serverErr != nil {
		t.Fatalf("client: %v; server: %v", r.clientErr, r.serverErr)
	}
	if string(r.info) != "info" || string(r.grant) != "grant" || string(r.list) != "list for me" {
		t.Fatalf("got %q, %q, %q", r.info, r.grant, r.list)
	}
	if len(w.granted) != 1 || w.granted[0].Key != r.session.Key || w.granted[0].SecretID != testSecretID {
		t.Fatal("server and client disagree")
	}
}
