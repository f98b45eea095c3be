// Where hack/peers takes containerd, its shim and ctr from.
module wherry/peers/containerd

go 1.26.2

require github.com/containerd/containerd/v2 v2.4.2
