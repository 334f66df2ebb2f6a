package superpeer

import (
	"testing"
	"time"
)

// TestMeterReadsWhatIsBeingDone: and goes on from there.
func TestMeterReadsWhatIsBeingDone(t *testing.T) {
	var m meter
	spin := func() {
		for began := ownThread().read(); ownThread().read()-began < 20*time.Millisecond; {
		}
	}
	half, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		m.do(func() {
			spin()
			half <- struct{}{}
			<-half
			spin()
		})
	}()
	<-half
	first := m.total()
	half <- struct{}{}
	<-done
	if second := m.total(); first < 20*time.Millisecond || second < first+20*time.Millisecond || second != m.total() {
		t.Errorf("read %v in the midst of it and %v after it", first, second)
	}
}
