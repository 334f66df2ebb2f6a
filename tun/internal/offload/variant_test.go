package offload

import "testing"

// variant is one way to compute checksums; use selects it until the function
// it returns is called.
type variant struct {
	name string
	use  func() (restore func())
}

// everyVariant runs fn under each that this machine has.
func everyVariant(t *testing.T, fn func(t *testing.T)) {
	t.Helper()
	for _, v := range variants() {
		restore := v.use()
		fn(t)
		restore()
	}
}
