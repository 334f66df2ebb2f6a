package offload

func variants() []variant {
	set := func(on bool) func() func() {
		return func() func() {
			was := hasAVX2
			hasAVX2 = on
			return func() { hasAVX2 = was }
		}
	}
	vs := []variant{{"portable", set(false)}}
	if hasAVX2 {
		vs = append(vs, variant{"avx2", set(true)})
	}
	return vs
}
