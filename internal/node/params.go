package node

import "time"

// We chose:
const (
	// maxStaged packets wait for a tunnel's first SA, the oldest go first.
	maxStaged = 64
	// maxUnrouted packets wait for the directory to name their destination.
	maxUnrouted = 64
	// unroutedLife is how long they wait.
	unroutedLife = 3 * time.Second

	// controlQueue bounds datagrams and posts waiting for the control loop.
	controlQueue = 256

	// contactLife is how long a contact record is believed; it is written
	// again at half of that (DESIGN.md 6).
	contactLife = 10 * time.Minute
	// directoryGap is the least time between two looks for somebody to whom packets
	// wait, doubling to directoryGapMax while they bring nothing new.
	directoryGap    = time.Second
	directoryGapMax = 5 * time.Second
	// directoryTimeout bounds a reading of everything.
	directoryTimeout = time.Minute
	// reflectEvery is how often super peers are asked for our address; it also
	// keeps a NAT's mapping towards them.
	reflectEvery = 25 * time.Second
	// lookupTimeout bounds the search for one contact.
	lookupTimeout = 8 * time.Second
	// maxLookups runs at once.
	maxLookups = 16

	// connectRetry is the first wait after a failed connection, doubling to
	// connectRetryMax while packets ask for it.
	connectRetry    = 250 * time.Millisecond
	connectRetryMax = 30 * time.Second
	// stagedPatience is how long packets wait while connecting fails: a machine
	// that has just joined is in the directory before its contact is.
	stagedPatience = 3 * time.Second

	// confirmEvery is the first interval of dummies until the peer is heard on
	// a new pair, doubling, confirmTries times.
	confirmEvery = 200 * time.Millisecond
	confirmTries = 8

	// Dead peer detection: after sending for deadAfter without hearing
	// anything, probe every probeEvery, and after probeTries agree new keys.
	deadAfter  = 10 * time.Second
	probeEvery = 2 * time.Second
	probeTries = 3

	// idleLife ends a tunnel that carried nothing; it costs memory only, but
	// keys that nobody needs are better gone.
	idleLife = 15 * time.Minute

	// upkeepMax and upkeepMin bound the time between two looks at the tunnels
	// that are not idle.
	upkeepMax = time.Hour
	upkeepMin = 20 * time.Millisecond

	// simultaneousWindow is how close two completed exchanges of a peer must be
	// to count as begun by both ends at once: some round trips.
	simultaneousWindow = 3 * time.Second
	// rekeyRetry is the wait after a failed rekey.
	rekeyRetry = 10 * time.Second

	// leaveTimeout bounds a clean leave.
	leaveTimeout = 3 * time.Second

	// renewFraction of a credential's life is left when it is renewed, with
	// jitter so that members admitted together do not come back together.
	renewFraction = 3
	// lastResort is how long before the end of a membership a renewal with
	// another address is taken rather than none.
	lastResort = time.Hour

	// maxClockOff is how wrong a clock may be: below, the offset learnt at
	// admission is taken into account; above, logs, credentials and everything
	// else on the machine would be wrong.
	maxClockOff = time.Hour
	// maxClockBehind is how far ahead of ours a super peer's clock may be. We sign the
	// time at which we ask (service.Claim), and whoever holds our word for a later
	// time than is could show it when we have long been admitted elsewhere. It is less
	// than the slack of a claim, so that one made after it still holds.
	maxClockBehind = 4 * time.Minute
)
