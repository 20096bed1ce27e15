package cluster

import (
	"slices"

	"github.com/hashicorp/raft"
)

// features are those of this program, sorted, each once.
func (n *Node) features() []string {
	return slices.Compact(slices.Sorted(slices.Values(n.cfg.Features)))
}

// Features are what every voter has registered that it understands and this node
// understands too, sorted. A voter that has not registered understands nothing
// new. In a rolling upgrade the list grows with the last voter's restart; going
// back to an older program shrinks it again.
func (n *Node) Features() []string {
	view := n.machine.View()
	var common []string
	voters := 0
	for _, server := range n.configuration().Servers {
		if server.Suffrage != raft.Voter {
			continue
		}
		if voters++; voters == 1 {
			common = n.features()
		}
		info, _ := view.Node(nodeOf(server.ID))
		common = slices.DeleteFunc(common, func(f string) bool { return !slices.Contains(info.Features, f) })
	}
	return common
}
