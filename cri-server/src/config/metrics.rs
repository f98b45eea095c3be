//! Where Prometheus may ask.

use super::values::Values;
use super::{Error, listen, refuse};
use crate::metrics::http::Address;

/// The address; none if it is not named.
pub(super) fn address(values: &Values) -> Result<Option<Address>, Error> {
    let address = values.text("metrics.address");
    address.map(|address| parse(&address)).transpose()
}

fn parse(address: &str) -> Result<Address, Error> {
    if address.starts_with("unix:///") || address.starts_with('/') {
        return listen::socket("metrics.address", address).map(Address::Unix);
    }
    let refused = |_unparsable| {
        let reason = format!(
            "{address:?} is neither an address and a port, such as 127.0.0.1:10257, nor of the form \
             unix:///path"
        );
        refuse("metrics.address", reason)
    };
    address.parse().map(Address::Tcp).map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let tcp = parse("[::1]:0").unwrap();
        assert_eq!(tcp, Address::Tcp("[::1]:0".parse().unwrap()));
        let unix = parse("unix:///run/m.sock").unwrap();
        assert_eq!(unix, Address::Unix("/run/m.sock".into()));
        for wrong in ["", "localhost", "unix://m", "10257"] {
            let error = parse(wrong).unwrap_err().to_string();
            assert!(error.starts_with("metrics.address: "), "{error}");
        }
    }
}
