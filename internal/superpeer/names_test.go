package superpeer

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"icvpn/internal/ledger"
	"icvpn/internal/provision"
)

func TestSecondMachineOfANameIsVisible(t *testing.T) {
	s, svc := newTestSuper(t, new(ledger.Memory), nil)
	var log bytes.Buffer
	s.authority.log = slog.New(slog.NewTextHandler(&log, nil))
	named := func(n byte, name string) string {
		c := comer(svc, "web", n)
		if _, err := c.ask(t, s.authority, func(r *provision.Request) { r.Name = name }); err != nil {
			t.Fatal(err)
		}
		return c.who.PID.Short()
	}
	first := named(1, "app-1")
	named(2, "app-2")
	named(1, "app-1") // renewed: still one machine
	if st, err := s.Status(t.Context()); err != nil || len(st.Warnings) != 0 || strings.Contains(log.String(), "another machine") {
		t.Fatalf("names are all different: %v, %v\n%s", st.Warnings, err, log.String())
	}
	second := named(3, "app-1")
	st, err := s.Status(t.Context())
	if err != nil || len(st.Warnings) != 1 {
		t.Fatalf("warnings %q, %v", st.Warnings, err)
	}
	for _, want := range []string{"app-1", first, second} {
		if !strings.Contains(st.Warnings[0], want) {
			t.Errorf("%q lacks %s", st.Warnings[0], want)
		}
	}
	if line := log.String(); !strings.Contains(line, "another machine has this name") || !strings.Contains(line, "others=["+first+"]") {
		t.Errorf("log lacks the other one:\n%s", line)
	}
}
