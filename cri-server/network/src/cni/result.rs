//! What a network says that it gave: the addresses in a result of versions 0.3.0 to 1.1.0. Pure.

use std::net::IpAddr;

use serde_json::Value;

/// Parses what a plugin wrote on ADD.
pub(crate) fn parse(output: &[u8]) -> Result<Value, String> {
    let result: Value = serde_json::from_slice(output)
        .map_err(|error| format!("its result is no JSON: {error}"))?;
    if result.is_object() {
        Ok(result)
    } else {
        Err("its result is no JSON object".to_owned())
    }
}

/// The pod's addresses: those of interfaces within a sandbox, or of none that is named.
pub(crate) fn addresses(result: &Value) -> Result<Vec<IpAddr>, String> {
    let ips = result
        .get("ips")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    let ips: Vec<IpAddr> = ips
        .iter()
        .filter(|ip| is_inside(result, ip))
        .map(address)
        .collect::<Result<_, _>>()?;
    if ips.is_empty() {
        Err("its result has no address".to_owned())
    } else {
        Ok(ips)
    }
}

fn is_inside(result: &Value, ip: &Value) -> bool {
    let Some(index) = ip.get("interface").and_then(Value::as_u64) else {
        return true;
    };
    let interface = result
        .get("interfaces")
        .and_then(Value::as_array)
        .and_then(|all| all.get(usize::try_from(index).ok()?));
    let sandbox = interface
        .and_then(|it| it.get("sandbox"))
        .and_then(Value::as_str);
    sandbox.is_some_and(|path| !path.is_empty())
}

fn address(ip: &Value) -> Result<IpAddr, String> {
    let text = ip
        .get("address")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let plain = text.split_once('/').map_or(text, |(ip, _prefix)| ip);
    plain
        .parse()
        .map_err(|_unparsed: std::net::AddrParseError| {
            format!("its result has {text:?} as an address")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_pod_are_told_from_those_of_the_host() {
        let check = |text: &str, expect: Result<&[&str], &str>| {
            let got = addresses(&serde_json::from_str(text).unwrap());
            let got = got.map(|ips| ips.iter().map(ToString::to_string).collect::<Vec<_>>());
            let expect = expect.map(|ips| ips.iter().map(ToString::to_string).collect());
            assert_eq!(got, expect.map_err(str::to_owned), "{text}");
        };
        check(r#"{"ips":[{"address":"10.1.2.3/24"}]}"#, Ok(&["10.1.2.3"]));
        check(
            r#"{"interfaces":[{"name":"br"},{"name":"eth0","sandbox":"/n"}],
                "ips":[{"interface":0,"address":"10.1.2.1/24"},
                       {"interface":1,"address":"10.1.2.3/24"},
                       {"interface":1,"address":"fd00::3/64"}]}"#,
            Ok(&["10.1.2.3", "fd00::3"]),
        );
        check("{}", Err("its result has no address"));
        check(
            r#"{"ips":[{"address":"x/24"}]}"#,
            Err("its result has \"x/24\" as an address"),
        );
        check(
            r#"{"ips":[{"interface":7,"address":"10.1.2.3/24"}]}"#,
            Err("its result has no address"),
        );
    }
}
