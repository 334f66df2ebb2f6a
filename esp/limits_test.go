package esp

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"
)

// worst draws the lowest soft limit, 75 %.
func worst() *bytes.Reader { return bytes.NewReader(make([]byte, 4)) }

func sealMany(tb testing.TB, out *Outbound, now time.Time, n int) (sealed int, life Life, batch []Packet) {
	tb.Helper()
	batch = make([]Packet, n)
	for i := range batch {
		batch[i] = load(ipv4(46)) // 48 bytes of ciphertext in every suite
	}
	sealed, life = out.Seal(now, batch)
	return sealed, life, batch
}

func TestPacketLimitEndsTheSAOnBothSides(t *testing.T) {
	c := testConfig(DefaultSuite)
	c.Limits.Packets = 100
	c.Rand = worst()
	out, err := NewOutbound(c)
	if err != nil {
		t.Fatal(err)
	}
	if n, life, _ := sealMany(t, out, born, 74); n != 74 || life != LifeFresh {
		t.Fatalf("at 74: %d %v", n, life)
	}
	if n, life, _ := sealMany(t, out, born, 1); n != 1 || life != LifeRekey {
		t.Fatalf("at 75: %d %v", n, life)
	}
	n, life, batch := sealMany(t, out, born, 30)
	if n != 25 || life != LifeExpired {
		t.Fatalf("at 100: %d %v", n, life)
	}
	for i := range batch {
		want := DropNone
		if i >= 25 {
			want = DropExpired
		}
		wantDrop(t, batch[i], want)
	}
	if out.Stats().Dropped(DropExpired) != 5 || out.LastSeq() != 100 {
		t.Errorf("%d dropped, counter %d", out.Stats().Dropped(DropExpired), out.LastSeq())
	}

	// A sender without limits does not move the receiver.
	c.Rand = worst()
	in, err := NewInbound(c)
	if err != nil {
		t.Fatal(err)
	}
	c.Limits.Packets, c.Rand = 1000, worst()
	endless, _ := NewOutbound(c)
	n, _, batch = sealMany(t, endless, born, 101)
	if n != 101 {
		t.Fatal(n)
	}
	if n, life = in.Open(born, batch[:74]); n != 74 || life != LifeFresh {
		t.Fatalf("opened %d %v", n, life)
	}
	if n, life = in.Open(born, batch[74:75]); n != 1 || life != LifeRekey {
		t.Fatalf("opened %d %v", n, life)
	}
	if n, life = in.Open(born, batch[75:]); n != 25 || life != LifeExpired {
		t.Fatalf("opened %d %v", n, life)
	}
	wantDrop(t, batch[100], DropExpired)
}

func TestByteLimitEndsTheSAOnBothSides(t *testing.T) {
	for _, s := range Suites() {
		c := testConfig(s)
		c.Limits.Bytes = 48*100 + 47
		c.Rand = worst()
		out, err := NewOutbound(c)
		if err != nil {
			t.Fatal(err)
		}
		c.Rand = worst()
		in, err := NewInbound(c)
		if err != nil {
			t.Fatal(err)
		}
		n, life, batch := sealMany(t, out, born, 76)
		if n != 76 || life != LifeRekey || out.CipherBytes() != 48*76 {
			t.Fatalf("%v: sealed %d %v, %d bytes", s, n, life, out.CipherBytes())
		}
		if n, life = in.Open(born, batch); n != 76 || life != LifeRekey || in.CipherBytes() != 48*76 {
			t.Fatalf("%v: opened %d %v, %d bytes", s, n, life, in.CipherBytes())
		}
		if n, life, batch = sealMany(t, out, born, 50); n != 24 || life != LifeExpired {
			t.Fatalf("%v: sealed %d %v", s, n, life)
		}
		wantDrop(t, batch[23], DropNone)
		wantDrop(t, batch[24], DropExpired)
		// The SA has ended: a packet small enough for what is left is refused too.
		small := []Packet{load(ipv4(20))}
		if n, _ = out.Seal(born, small); n != 0 {
			t.Fatal("an ended SA seals")
		}

		c.Limits.Bytes, c.Rand = 0, worst()
		c.LastSeq = 100
		endless, _ := NewOutbound(c)
		_, _, batch = sealMany(t, endless, born, 26)
		if n, life = in.Open(born, batch); n != 24 || life != LifeExpired {
			t.Fatalf("%v: opened %d %v", s, n, life)
		}
		wantDrop(t, batch[24], DropExpired)
		wantDrop(t, batch[25], DropExpired)
	}
}

func TestAgeEndsTheSAForGood(t *testing.T) {
	c := testConfig(DefaultSuite)
	c.Rand = worst()
	out, err := NewOutbound(c)
	if err != nil {
		t.Fatal(err)
	}
	c.Rand = worst()
	in, err := NewInbound(c)
	if err != nil {
		t.Fatal(err)
	}
	soft, hard := out.Deadlines()
	if soft.Sub(born) != 45*time.Minute || hard.Sub(born) != time.Hour {
		t.Fatalf("deadlines %v %v", soft.Sub(born), hard.Sub(born))
	}
	for _, step := range []struct {
		now  time.Time
		n    int
		life Life
	}{
		{born.Add(-time.Hour), 1, LifeFresh}, // a clock set back is no reason to stop
		{soft.Add(-1), 1, LifeFresh},
		{soft, 1, LifeRekey},
		{hard.Add(-1), 1, LifeRekey},
		{hard, 0, LifeExpired},
		{born, 0, LifeExpired}, // and none to start again
	} {
		n, life, batch := sealMany(t, out, step.now, 1)
		if n != step.n || life != step.life {
			t.Errorf("Seal at %v: %d %v", step.now.Sub(born), n, life)
		}
		if life != out.Life(step.now) {
			t.Errorf("Life at %v: %v", step.now.Sub(born), out.Life(step.now))
		}
		if n, life = in.Open(step.now, batch); n != step.n || life != step.life || life != in.Life(step.now) {
			t.Errorf("Open at %v: %d %v", step.now.Sub(born), n, life)
		}
	}
	wantExpired := uint64(2)
	if got := in.Stats().Dropped(DropExpired); got != wantExpired {
		t.Errorf("%d counted as expired", got)
	}
}

func TestSoftLimitIsDrawnBetween75And85Percent(t *testing.T) {
	low, high := time.Hour, time.Duration(0)
	for range 500 {
		out, err := NewOutbound(testConfig(DefaultSuite))
		if err != nil {
			t.Fatal(err)
		}
		soft, _ := out.Deadlines()
		low, high = min(low, soft.Sub(born)), max(high, soft.Sub(born))
	}
	if low < 45*time.Minute || high > 51*time.Minute {
		t.Errorf("soft limits from %v to %v", low, high)
	}
	if high-low < 3*time.Minute {
		t.Errorf("hardly any jitter: %v to %v", low, high)
	}
	if l := (Limits{Bytes: maxSeq64, Packets: maxSeq64, Age: 1<<63 - 1}).soft(softHigh); l.Bytes < 1<<63 || l.Age < 1<<62 {
		t.Errorf("soft limits overflow: %+v", l)
	}
}

func TestCloseWipesAndStops(t *testing.T) {
	forSuites(t, func(t *testing.T, c Config) {
		out, in := newPair(t, c)
		d := sealOne(t, out, ipv4(60))
		borrowed := in.pool.get() // a batch under way on another goroutine
		keys := [][]byte{out.pool.keys.Enc, out.pool.keys.Int, out.pool.keys.IV, out.pool.keys.Salt}
		out.Close()
		in.Close()
		in.Close()
		in.pool.put(borrowed)
		for _, k := range keys {
			if !bytes.Equal(k, make([]byte, len(k))) {
				t.Error("key not wiped")
			}
		}
		if len(out.pool.free)+len(in.pool.free) != 0 || in.pool.get() != nil {
			t.Error("transforms left")
		}
		wantDrop(t, openOne(in, d), DropExpired)
		batch := []Packet{load(ipv4(60))}
		if n, life := out.Seal(born, batch); n != 0 || life != LifeExpired || batch[0].Drop != DropExpired {
			t.Errorf("Seal after Close: %d %v %v", n, life, batch[0].Drop)
		}
		if out.Life(born) != LifeExpired || in.Life(born) != LifeExpired {
			t.Error("alive after Close")
		}
		if bytes.Equal(c.Keys.Enc, make([]byte, len(c.Keys.Enc))) {
			t.Error("the caller's keys were wiped: they are borrowed")
		}
	})
}

func TestConfigIsValidated(t *testing.T) {
	for name, v := range map[string]struct {
		change func(*Config)
		text   string
	}{
		"zero":            {func(c *Config) { *c = Config{} }, "SPI"},
		"SPI 255":         {func(c *Config) { c.SPI = 255 }, "SPI"},
		"suite 6":         {func(c *Config) { c.Suite = 6 }, "Suite"},
		"window 63":       {func(c *Config) { c.Window = 63 }, "Window"},
		"window 100":      {func(c *Config) { c.Window = 100 }, "Window"},
		"window negative": {func(c *Config) { c.Window = -64 }, "Window"},
		"window 2^21":     {func(c *Config) { c.Window = 1 << 21 }, "Window"},
		"no birth":        {func(c *Config) { c.Born = time.Time{} }, "Born"},
		"negative age":    {func(c *Config) { c.Limits.Age = -1 }, "Limits.Age"},
		"high LastSeq":    {func(c *Config) { c.NoESN, c.LastSeq = true, 1<<32 }, "LastSeq"},
		"no keys":         {func(c *Config) { c.Keys = Keys{} }, "Keys"},
		"short enc":       {func(c *Config) { c.Keys.Enc = c.Keys.Enc[1:] }, "enc has 15 bytes, want 16"},
		"long int":        {func(c *Config) { c.Keys.Int = make([]byte, 33) }, "int has 33 bytes, want 32"},
		"no iv":           {func(c *Config) { c.Keys.IV = nil }, "iv has 0 bytes, want 16"},
		"salt for CBC":    {func(c *Config) { c.Keys.Salt = make([]byte, 4) }, "salt has 4 bytes, want 0"},
		"iv repeats enc":  {func(c *Config) { c.Keys.IV = c.Keys.Enc }, "iv repeats enc"},
		"no randomness":   {func(c *Config) { c.Rand = bytes.NewReader(nil) }, "jitter"},
	} {
		c := testConfig(DefaultSuite)
		v.change(&c)
		_, errOut := NewOutbound(c)
		_, errIn := NewInbound(c)
		for _, err := range []error{errOut, errIn} {
			if err == nil || !strings.Contains(err.Error(), v.text) {
				t.Errorf("%s: error %v, want %q in it", name, err, v.text)
			}
			if name != "no randomness" && !errors.Is(err, ErrConfig) {
				t.Errorf("%s: %v is no ErrConfig", name, err)
			}
		}
	}
	if _, err := NewOutbound(Config{SPI: 300, Suite: 9, Born: born}); !errors.Is(err, ErrSuite) {
		t.Errorf("%v is no ErrSuite", err)
	}
	if _, err := NewOutbound(Config{SPI: 300, Born: born}); !errors.Is(err, ErrKeys) {
		t.Errorf("%v is no ErrKeys", err)
	}
}
