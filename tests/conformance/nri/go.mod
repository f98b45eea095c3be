// The plugin that the tests of NRI run: its own few lines on the interface's own library.
module wherry/peers/nri

go 1.25.0

require github.com/containerd/nri v0.12.5
