package client

import "testing"

func TestMarshal_leavesMarkupAsItIs(t *testing.T) {
	got, err := marshal(map[string]string{"text": "a <b> & c"})
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"text":"a <b> & c"}`; string(got) != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
