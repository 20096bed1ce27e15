package api

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Names are checked here, once, before anything is done with them: they stand in
// keys of trees, in URLs, in metrics of other systems and on terminals.

// defaultStore is the store of a request that names none.
const defaultStore = "default"

// The bounds of names (protocol section 1), in bytes.
const (
	maxRoomBytes  = 128
	maxStoreBytes = 64
	maxKeyBytes   = 256
)

// The punctuation that rooms and stores may have besides letters and digits.
const (
	roomPunctuation  = "._~:@-"
	storePunctuation = "._~-"
)

// badRoom says what is wrong with a room name, "" when nothing is; badStore and
// badKey likewise.
func badRoom(s string) string  { return badName(s, maxRoomBytes, roomPunctuation) }
func badStore(s string) string { return badName(s, maxStoreBytes, storePunctuation) }

func badName(s string, max int, punctuation string) string {
	switch {
	case s == "" || len(s) > max:
		return "must have 1 to " + strconv.Itoa(max) + " characters"
	case s == "." || s == "..":
		return `may not be "." or ".."`
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		alphanumeric := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alphanumeric && strings.IndexByte(punctuation, c) < 0 {
			return "may only have letters, digits and " + punctuation
		}
	}
	return ""
}

func badKey(s string) string {
	switch {
	case s == "" || len(s) > maxKeyBytes:
		return "must have 1 to " + strconv.Itoa(maxKeyBytes) + " bytes"
	case s == "." || s == "..":
		return `may not be "." or ".."`
	case !utf8.ValidString(s):
		return "must be UTF-8"
	case strings.IndexByte(s, '*') >= 0:
		return `may not have a "*"`
	case strings.IndexFunc(s, unicode.IsControl) >= 0:
		return "may not have control characters"
	}
	return ""
}
