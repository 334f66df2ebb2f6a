package state

const (
	// formatVersion stands in every file; schemaVersion in the file "schema" and
	// covers what the names mean. Either being unknown refuses the directory.
	formatVersion = 1
	schemaVersion = 1

	magic      = "icvs"
	keyIDSize  = 8
	headerSize = len(magic) + 1 + keyIDSize
	nonceSize  = 24
	tagSize    = 16
	overhead   = headerSize + nonceSize + tagSize
	keySize    = 32

	// MaxSize bounds one document, far over what icvpn stores, so that a strange
	// file cannot fill memory.
	MaxSize = 4 << 20

	// maxName leaves room for the suffix in 255 bytes and for people's eyes.
	maxName = 64

	dirMode  = 0o700
	fileMode = 0o600

	keyFile        = "seal.key"
	lockFile       = "lock"
	schemaFile     = "schema" + sealedSuffix
	sealedSuffix   = ".sealed"
	counterSuffix  = ".counter"
	newSuffix      = ".new" // being written; removed by the next Open
	credentialFile = "icvpn-state-key"
	credentialEnv  = "CREDENTIALS_DIRECTORY"
)
