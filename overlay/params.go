package overlay

import "time"

// The specifications say.
const (
	// MaxPayload bounds one datagram in both directions: 1232 bytes of UDP
	// payload on a 1280-byte path less 59 of sealing (docs/protocol/overlay.md).
	MaxPayload = 1173
	// MaxSalt is the longest salt of a mutable item (BEP 44).
	MaxSalt = 64
	// bucketSize is Kademlia's k: the least width of a bucket, the number of nodes
	// in an answer and the number of nodes an item is stored on (BEP 5).
	bucketSize = 8
	// writeTokenLife is how long a write token is given out; it is taken for as
	// long again (BEP 5: tokens of up to ten minutes are accepted).
	writeTokenLife = 5 * time.Minute
)

// BEP 5 and BEP 44 error codes.
const (
	codeProtocol  = 203 // bad token or arguments
	codeTooBig    = 205 // value longer than MaxValue
	codeSignature = 206
	codeSalt      = 207
	codeSequence  = 302 // a newer item is stored
	codeFull      = 202 // server error: a quota or the store is full
)

// We chose.
const (
	// MaxValue is the longest value of an item. BEP 44 allows 1000 bytes, but a
	// get answer adds 540 of nodes, key, signature and framing and has to fit
	// MaxPayload.
	MaxValue = 600
	// MaxObject is the largest object that a reader takes if its Config does not say
	// otherwise, and MaxLargeObject the largest that it can say.
	MaxObject      = 64 << 10
	MaxLargeObject = 1 << 20

	// minQuery is the padded size of a find_node: no answer to it is larger, so
	// reflecting it gains nothing.
	minQuery = 450

	tokenSize = 8 // bytes of HMAC in a write token
	tagSize   = 8 // bytes of HMAC appended to a transaction ID
	// maxTransaction bounds the t of a datagram: ten bytes of varint and the tag,
	// and room to grow.
	maxTransaction = 20
	maxToken       = 20 // bytes of somebody else's write token
	maxText        = 64 // bytes of text in an error answer
	maxDepth       = 4  // nested lists and dictionaries in a datagram

	// alpha is the number of queries in flight in one walk, shared out among its
	// paths: all k at once, since on a small overlay a walk is mostly one round and
	// then costs one round trip.
	alpha = bucketSize
	// maxWalk bounds the nodes asked in one walk, so that a member who answers
	// with invented nodes, ever closer, ends nowhere.
	maxWalk = 96
	// walkTimeout ends a walk whose caller set no earlier deadline.
	walkTimeout = 10 * time.Second

	// maxResend bounds the first wait for an answer, in times of Config.Resend.
	maxResend = 4

	queryTries = 2 // sends of a lookup query before its node counts as silent
	storeTries = 3 // sends of a put: a lost put costs a replica, not a detour

	// perMember is the number of items under a member's key: a contact record, and
	// room to grow. It says how many members it takes to fill the members' room.
	perMember = 4

	// minLife is the shortest life of an object's chunks: a reader that has the root
	// needs the time to fetch them.
	minLife = time.Minute

	// enoughCopies is the number of equal copies after which a get no longer
	// waits for silent nodes, only for one more resend interval.
	enoughCopies = 3

	// maxFails is the number of unanswered queries after which a contact goes.
	maxFails = 3
	// maxReplicas bounds the replica addresses used in a put.
	maxReplicas = 16

	packetQueue = 256 // opened datagrams waiting for the machine
	verifyQueue = 64  // addresses that are being pinged, to prove or to check them
	// visitsPerPrefix of them are at once of one prefix because it queried us.
	visitsPerPrefix = 2
	publishWorkers  = 4 // publications put at a time
	objectWorkers   = 8 // gets or puts of an object's chunks at a time
	chunkReplicas   = 3 // replicas that are asked for a chunk before a walk looks for it

	// maxPatience is how many times Revalidate a contact may be unheard that has
	// answered for longer, and refreshFactor how many times Refresh a bucket may be
	// without a walk to it (an hour, Kademlia, Section 2.3).
	maxPatience   = 15
	refreshFactor = 12

	maxBucket = 256 // contacts in a bucket

	maxPaths = 8  // of a walk
	maxHops  = 16 // longer paths count as that long

	// onlineWindow: while nothing at all was heard for so long, silence says
	// something about our own link and not about the nodes asked.
	onlineWindow = 30 * time.Second

	firstRetry = time.Second      // after a bootstrap or publication that reached nobody
	lastRetry  = 30 * time.Second // the retry interval doubles up to this

	// putTries bounds how often a part of an object is put again because too few
	// nodes took it; whoever wants more tries the object again.
	putTries = 3

	maxLimiterKeys = 4096 // prefixes or peers with a rate of their own at a time
	// limiterSweep is how often a full limiter looks for keys to forget, so that
	// filling it does not make it slow as well.
	limiterSweep = 100 * time.Millisecond
)
