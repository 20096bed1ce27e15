package api

import "testing"

// Whatever a client sends first is refused or understood, and what is understood
// keeps the bounds.
func FuzzHello(f *testing.F) {
	for _, seed := range []string{
		`{"id":1,"do":"hello","v":1,"client":"c","name":"Ada","data":{"a":[1]},"watch":[{}]}`,
		`{"id":1,"do":"hello","v":1,"observe":true,"resume":{"session":"s1","rev":7}}`,
		`{"id":1,"do":"hello","v":1,"resume":{"session":"s1","peer":"p1","key":"k"},"more":{"x":1}}`,
		`{"id":1,"watch":[{"keys":["a*"],"types":["put"],"topics":["*"],"store":"x","snapshot":true}],"v":1}`,
		`{"v":2}`, `{"id":3,"do":`, `{"do":{},"id":4,`, `[]`, `{"id":-1`, `{"resume":{}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if id, ok := salvageID(data); ok && (id == 0 || id >= maxNumber) {
			t.Errorf("salvaged the id %d", id)
		}
		o, bad := parseObject(data, "message")
		if bad != nil {
			return
		}
		h, bad := parseHello(&request{id: 1, o: o})
		if bad != nil {
			return
		}
		if h.client == "" || len(h.client) > maxClient || len(h.join.Name) > maxPeerName || h.watch.fits() != nil {
			t.Errorf("understood %+v", h)
		}
		for _, w := range h.watch {
			if w.types == 0 || w.watch != 1 {
				t.Errorf("a filter that lets nothing through: %+v", w)
			}
		}
		if h.resume != nil && (badID(h.resume.session) || (h.resume.peer == "") != (h.resume.key == "")) {
			t.Errorf("resumes %+v", h.resume)
		}
	})
}
