package config

import (
	"slices"
	"strings"
)

// suggestion is the way out for an unknown key: where it belongs, what was
// probably meant, or where all keys stand.
func suggestion(key string, fields []Field) string {
	if key == "token" {
		return "put the token into a file of mode 0600 and write token_file: FILE"
	}
	if !known(key, fields) && (known(key, PeerFields()) || known(key, SuperFields())) {
		if known(key, PeerFields()) {
			return "it belongs to a peer's configuration, which icvpn up reads"
		}
		return "it belongs to a super peer's configuration, which icvpn super reads"
	}
	leaf := key[strings.LastIndexByte(key, '.')+1:]
	for _, f := range fields {
		section, last, ok := strings.Cut(f.Key, ".")
		if ok && last == leaf && !strings.Contains(key, ".") {
			return "write it under " + section + ":"
		}
	}
	if best := nearest(key, fields); best != "" {
		return "did you mean \"" + best + "\"?"
	}
	return "icvpn config example lists the fields"
}

func known(key string, fields []Field) bool {
	return slices.ContainsFunc(fields, func(f Field) bool { return f.Key == key })
}

// nearest returns the key or section with the least edit distance from key, if
// that is at most a third of its length; the first one if several are equal.
func nearest(key string, fields []Field) string {
	best, least := "", max(1, len(key)/3)+1
	for _, f := range fields {
		section, _, _ := strings.Cut(f.Key, ".")
		for _, candidate := range []string{f.Key, section} {
			if d := distance(key, candidate); d < least {
				best, least = candidate, d
			}
		}
	}
	return best
}

// distance is the Levenshtein distance in bytes. A key from a file may be as
// long as the file, so a long one is far from everything without a look.
func distance(a, b string) int {
	const most = 64 // no known key comes near it
	if len(a) > most {
		return most
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
