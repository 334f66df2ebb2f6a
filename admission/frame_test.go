package admission

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"testing"
	"testing/iotest"
)

func TestFrameRoundTrip(t *testing.T) {
	var stream bytes.Buffer
	var want []Frame
	for typ := TypeDescriptorRequest; typ <= TypeRefused; typ++ {
		for _, n := range []int{0, 1, typ.limit()} {
			f := Frame{typ, bytes.Repeat([]byte{byte(typ)}, n)}
			want = append(want, f)
			if err := WriteFrame(&stream, f); err != nil {
				t.Fatal(err)
			}
		}
	}
	r := iotest.HalfReader(&stream)
	for _, w := range want {
		f, err := ReadFrame(r, w.Type.limit())
		if err != nil || f.Type != w.Type || !bytes.Equal(f.Body, w.Body) {
			t.Fatalf("%v of %d bytes: %v", w.Type, len(w.Body), err)
		}
	}
	if _, err := ReadFrame(r, limitEarly); err != io.EOF {
		t.Fatalf("after the last frame: %v", err)
	}
}

func TestFrameBytes(t *testing.T) {
	var b bytes.Buffer
	if err := WriteFrame(&b, Frame{TypeStart, []byte("abc")}); err != nil {
		t.Fatal(err)
	}
	check(t, "frame", b.Bytes(), []byte{0, 0, 0, 4, 3, 'a', 'b', 'c'})
}

func TestReadFrameRefusesTruncations(t *testing.T) {
	b := []byte{0, 0, 0, 4, 3, 'a', 'b', 'c'}
	for i := 1; i < len(b); i++ {
		if _, err := ReadFrame(bytes.NewReader(b[:i]), limitEarly); err != io.ErrUnexpectedEOF {
			t.Errorf("%d bytes: %v", i, err)
		}
	}
}

// wrappedEOF ends as readers of other packages may: with a wrapped io.EOF.
type wrappedEOF struct{ r io.Reader }

func (w wrappedEOF) Read(b []byte) (int, error) {
	n, err := w.r.Read(b)
	if err != nil {
		err = fmt.Errorf("reader: %w", err)
	}
	return n, err
}

func TestReadFrameKnowsAWrappedEnd(t *testing.T) {
	_, err := ReadFrame(wrappedEOF{bytes.NewReader([]byte{0, 0, 0, 4, 3, 'a'})}, limitEarly)
	if !errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		t.Errorf("inside a frame: %v", err)
	}
}

func TestReadFrameRefusesSizes(t *testing.T) {
	for _, c := range []struct {
		header []byte
		limit  int
	}{
		{[]byte{0, 0, 0, 0, 3}, 100},
		{[]byte{0, 0, 0, 102, 3}, 100},
		{[]byte{0, 0, 16, 2, 3}, limitEarly},
		{[]byte{255, 255, 255, 255, 3}, limitListReply},
		{[]byte{0, 0, 0, 2, 3}, 0},
		{[]byte{0, 0, 0, 2, 3}, -1},
	} {
		if _, err := ReadFrame(bytes.NewReader(append(c.header, make([]byte, 200)...)), c.limit); !errors.Is(err, ErrFrameSize) {
			t.Errorf("% x under %d: %v", c.header, c.limit, err)
		}
	}
	if f, err := ReadFrame(bytes.NewReader(append([]byte{0, 0, 0, 101, 3}, make([]byte, 100)...)), 100); err != nil || len(f.Body) != 100 {
		t.Errorf("a body of exactly the limit: %v", err)
	}
}

func TestWriteFrameRefusesWhatNobodyReads(t *testing.T) {
	for _, f := range []Frame{{TypeStart, make([]byte, limitEarly+1)}, {0, []byte{1}}, {99, []byte{1}}} {
		if err := WriteFrame(io.Discard, f); !errors.Is(err, ErrFrameSize) {
			t.Errorf("%v of %d bytes: %v", f.Type, len(f.Body), err)
		}
	}
}

func TestReadFrameAllocatesByWhatArrives(t *testing.T) {
	claim := []byte{0, 16, 0, 0, byte(TypeListReply), 1, 2, 3} // claims 1 MiB
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 20 {
		if _, err := ReadFrame(bytes.NewReader(claim), limitListReply); err != io.ErrUnexpectedEOF {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
		t.Fatalf("20 claims of 1 MiB cost %d bytes", n)
	}
}

func TestLimitsFollowTheState(t *testing.T) {
	c, s := newTestClient(t, testClientConfig()), newTestServer(t, newWorld(t), testBinding("one"))
	var server, client []int
	client = append(client, c.Limit())
	next, toClient := c.Begin(), false
	var r run
	for range 10 {
		if toClient {
			client = append(client, c.Limit())
			f, err := r.clientStep(c, next)
			if err != nil {
				t.Fatal(err)
			}
			if f == nil {
				break
			}
			next = *f
		} else {
			server = append(server, s.Limit())
			next = mustStep(t, s, next).Send[0]
		}
		toClient = !toClient
	}
	if want := []int{limitEarly, limitContinue, limitEarly, limitProvision, limitList}; !slices.Equal(server, want) {
		t.Errorf("server limits %v, want %v", server, want)
	}
	if want := []int{limitRefused, limitDescriptor, limitChallenge, limitAccept, limitGrant, limitListReply}; !slices.Equal(client, want) {
		t.Errorf("client limits %v, want %v", client, want)
	}
	if s.Limit() != limitEarly || c.Limit() != limitRefused {
		t.Error("limits after the end")
	}
}

func TestTypesHaveNames(t *testing.T) {
	if TypeContinue.String() != "Continue" || Type(0).String() != "Type(0)" || Type(200).String() != "Type(200)" {
		t.Error(TypeContinue, Type(0), Type(200))
	}
}
