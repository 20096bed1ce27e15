package api

import (
	"strconv"

	"conclave/fsm"
	"conclave/lock"
)

// pageBytes bounds a page of a snapshot; a single entry may be larger.
const pageBytes = 256 << 10

// The sections of a page, in their order on the wire. Every page has all three,
// empty ones too.
const (
	sectionStores = iota
	sectionPeers
	sectionLocks
)

// snapshot writes what a set of filters lets through of one view, page by page.
// Nothing is kept between the pages but the view, which costs nothing to hold: a
// page is made when the reader has taken the one before.
type snapshot struct {
	session *fsm.Session // nil: the room has none; an empty snapshot
	id      string       // of the session
	filters filters
	request uint64 // id of the hello or watch that asked; 0: a reset did
	rev     uint64
	out     sink

	b       []byte
	section int
	store   string // whose array is open, in sectionStores
	items   int    // on this page
	listed  int    // in the array that is open
}

// send writes all pages. It fails when the sink does.
func (s *snapshot) send() error {
	s.begin()
	if s.session != nil {
		if err := s.contents(); err != nil {
			return err
		}
	}
	return s.end(false)
}

func (s *snapshot) contents() (err error) {
	for _, info := range s.session.Stores() {
		if !s.filters.passesStore(typePut, info.Store) {
			continue
		}
		s.openStore(info.Store)
		s.session.Entries(info.Store, "", "", func(e *fsm.Entry) bool {
			if s.filters.passesKey(typePut, info.Store, e.Key) {
				err = s.item(func(b []byte) []byte { return appendEntry(b, e) })
			}
			return err == nil
		})
		if err != nil {
			return err
		}
	}
	s.openSection(sectionPeers)
	if s.filters.passesType(typePeer) {
		s.session.Peers(func(p *fsm.Peer) bool {
			err = s.item(func(b []byte) []byte { return appendPeer(b, p) })
			return err == nil
		})
		if err != nil {
			return err
		}
	}
	s.openSection(sectionLocks)
	if s.filters.passesType(typeLock) {
		s.session.Locks(func(store, key string, l *lock.Lock) bool {
			if s.filters.passesKey(typeLock, store, key) {
				err = s.item(func(b []byte) []byte { return appendLock(b, store, key, l, nil) })
			}
			return err == nil
		})
	}
	return err
}

// begin starts a page with its store section. The session stands on every page:
// each can be read by itself.
func (s *snapshot) begin() {
	s.b = append(s.b[:0], `{"snapshot":{"session":`...)
	if s.id == "" {
		s.b = append(s.b, "null"...)
	} else {
		s.b = appendString(s.b, s.id)
	}
	s.b = append(s.b, `,"stores":{`...)
	s.section, s.store, s.items, s.listed = sectionStores, "", 0, 0
}

// openStore opens the array of a store.
func (s *snapshot) openStore(store string) {
	if s.store != "" {
		s.b = append(s.b, `],`...)
	}
	s.b = append(appendString(s.b, store), `:[`...)
	s.store, s.listed = store, 0
}

// openSection closes what is open, up to this section.
func (s *snapshot) openSection(section int) {
	for ; s.section < section; s.section++ {
		if s.section == sectionStores {
			if s.store != "" {
				s.b = append(s.b, ']')
			}
			s.b = append(s.b, `},"peers":[`...)
		} else {
			s.b = append(s.b, `],"locks":[`...)
		}
		s.listed = 0
	}
}

// item adds one element to the array that is open, on a new page if this one
// would become too large.
func (s *snapshot) item(appendTo func([]byte) []byte) error {
	// It is written first and measured then: if it is too much, it is cut off again
	// and begins the next page. The 64 bytes are for the end of the page.
	mark := len(s.b)
	if s.listed > 0 {
		s.b = append(s.b, ',')
	}
	s.b = appendTo(s.b)
	if len(s.b)+64 > pageBytes && s.items > 0 {
		store, section := s.store, s.section
		s.b = s.b[:mark]
		if err := s.end(true); err != nil {
			return err
		}
		s.begin()
		if section == sectionStores {
			s.openStore(store)
		}
		s.openSection(section)
		s.b = appendTo(s.b)
	}
	s.items++
	s.listed++
	return nil
}

// end closes the page and sends it.
func (s *snapshot) end(more bool) error {
	s.openSection(sectionLocks)
	s.b = append(s.b, `]}`...)
	if s.request != 0 {
		s.b = appendNumber(s.b, "for", s.request)
	}
	s.b = appendNumber(s.b, "rev", s.rev)
	s.b = strconv.AppendBool(appendName(s.b, "more"), more)
	s.b = append(s.b, '}')
	if more {
		return s.out.frame(0, s.b)
	}
	return s.out.frame(s.rev, s.b)
}
