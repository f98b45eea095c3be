// Where hack/peers takes cosign from, and timestamp-server, of which cosign's own graph has the module.
module wherry/peers/cosign

go 1.26.0

require github.com/sigstore/cosign/v3 v3.1.3
