// Command bench runs the same workloads against three-node clusters of Conclave,
// etcd and NATS on this machine, in turn, and reports ratios.
//
// All three fsync every write on a majority before they acknowledge it, and run
// as three processes beside the load. Each is driven through its own Go client.
// "bench growth" measures this product alone, as its rooms, keys, watchers, values
// and nodes become more. See docs/benchmarks.md for both.
//
// It is a module of its own, so that the peers' dependencies are not the product's.
package main
