package underlay

import (
	"os"
	"testing"

	"icvpn/internal/lab/labtest"
)

// The tests run in namespaces of their own: some need an interface with an MTU
// and features of their choice.
func TestMain(m *testing.M) { os.Exit(labtest.Main(m)) }
