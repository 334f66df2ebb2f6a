//go:build !amd64

package offload

func variants() []variant { return []variant{{"portable", func() func() { return func() {} }}} }
