package keyex

import (
	"maps"
	"testing"
	"time"
)

// Invariant of the answers' life: a cookie is dead before the answer to its M3
// is forgotten, however time passes between uses.
func TestCookieIsDeadBeforeTheAnswerIsForgotten(t *testing.T) {
	rnd := newTestRand(4)
	path, x := ipv4(1), hash{1}
	for range 2000 {
		j := cookieJar{rand: detRand("jar")}
		now := testEpoch
		j.rotate(now)
		now = now.Add(time.Duration(rnd.Int64N(int64(5 * time.Minute))))
		c, issued := j.issue(now, path, x), now
		if !j.check(now, c, path, x) {
			t.Fatal("a fresh cookie is refused")
		}
		for range 4 {
			now = now.Add(time.Duration(rnd.Int64N(int64(90 * time.Second))))
			age := now.Sub(issued)
			ok := j.check(now, c, path, x)
			if ok && age+fragmentLife >= answerLife || !ok && age <= cookieRotation {
				t.Fatalf("cookie of age %v: %t", age, ok)
			}
		}
		if d := now.Add(-time.Hour); j.check(d, flip17(c), path, x) {
			t.Fatal("a forged cookie was accepted")
		}
	}
}

func flip17(c cookie) cookie { c[16] ^= 1; return c }

func TestBoundedMapAgainstADumbTwin(t *testing.T) {
	type twin struct {
		v   int
		end time.Time
	}
	rnd := newTestRand(5)
	left := 0
	b := newBounded(5, 10*time.Second, func(int, int) { left++ })
	dumb, now, put := map[int]twin{}, testEpoch, 0
	for i := range 20000 {
		now = now.Add(time.Duration(rnd.IntN(3)) * time.Second)
		maps.DeleteFunc(dumb, func(_ int, e twin) bool { return !e.end.After(now) })
		k := rnd.IntN(8)
		switch rnd.IntN(3) {
		case 0:
			_, there := dumb[k]
			want := !there && len(dumb) < 5
			if want {
				dumb[k] = twin{i, now.Add(10 * time.Second)}
				put++
			}
			if b.put(now, k, i) != want {
				t.Fatal("put differs")
			}
		case 1:
			v, ok := b.get(now, k)
			if e, there := dumb[k]; there != ok || e.v != v {
				t.Fatal("get differs")
			}
		case 2:
			b.expire(now)
			delete(dumb, k)
			b.remove(k)
		}
		b.expire(now)
		var first time.Time
		for _, e := range dumb {
			first = earlier(first, e.end)
		}
		if b.len() != len(dumb) || !b.next().Equal(first) || put-left != len(dumb) {
			t.Fatal("contents differ")
		}
	}
}
