//! What a container uses, in the form in which `events` reports it (runc's types/events.go).

use cgroup::{Cpu, Memory, Pressure, PressureLine, Stats};
use serde_json::{Value, json};

use crate::container::Container;
use crate::failure::Result;

/// The figures of one moment.
pub(super) fn of(container: &Container) -> Result<Value> {
    let stats = container.group()?.stats()?;
    let mut data = json!({
        "cpu": stats.cpu.as_ref().map_or_else(|| json!({}), cpu),
        "cpuset": {},
        "memory": stats.memory.as_ref().map_or_else(|| json!({}), memory),
        "pids": pids(&stats),
        "blkio": {},
        "hugetlb": {},
        "intel_rdt": {},
        "network_interfaces": interfaces(container.state.init_process_pid),
    });
    if let Some(pressure) = &stats.io_pressure {
        data["blkio"]["psi"] = psi(pressure);
    }
    Ok(data)
}

fn cpu(cpu: &Cpu) -> Value {
    let mut value = json!({
        "usage": { "total": cpu.usage_ns, "kernel": cpu.system_ns, "user": cpu.user_ns },
        "throttling": {
            "periods": cpu.periods,
            "throttledPeriods": cpu.throttled_periods,
            "throttledTime": cpu.throttled_ns,
        },
    });
    if let Some(pressure) = &cpu.pressure {
        value["psi"] = psi(pressure);
    }
    value
}

fn memory(memory: &Memory) -> Value {
    // Go's "no limit" is the largest number.
    let limit = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
    let mut value = json!({
        "usage": { "limit": limit(memory.limit), "usage": memory.usage, "failcnt": 0 },
        "swap": {
            "limit": limit(memory.swap_limit),
            "usage": memory.swap.unwrap_or(0),
            "failcnt": 0,
        },
        "kernel": { "limit": 0, "failcnt": 0 },
        "kernelTCP": { "limit": 0, "failcnt": 0 },
        "raw": {
            "rss": memory.rss,
            "pgfault": memory.page_faults,
            "pgmajfault": memory.major_page_faults,
        },
    });
    if let Some(pressure) = &memory.pressure {
        value["psi"] = psi(pressure);
    }
    value
}

fn pids(stats: &Stats) -> Value {
    let mut value = json!({});
    if let Some(current) = stats.pids {
        value["current"] = json!(current);
    }
    if let Some(limit) = stats.pids_limit {
        value["limit"] = json!(limit);
    }
    value
}

fn psi(pressure: &Pressure) -> Value {
    // Microseconds, as the kernel has them.
    let line = |line: &PressureLine| {
        json!({
            "avg10": line.avg10,
            "avg60": line.avg60,
            "avg300": line.avg300,
            "total": line.total_ns / 1000,
        })
    };
    json!({ "some": line(&pressure.some), "full": line(&pressure.full) })
}

/// The counters of `/proc/PID/net/dev`, under the names that Go gives to fields without tags.
fn interfaces(pid: i32) -> Value {
    let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/net/dev")) else {
        return Value::Null;
    };
    let all: Vec<Value> = text.lines().filter_map(interface).collect();
    if all.is_empty() {
        Value::Null
    } else {
        json!(all)
    }
}

fn interface(line: &str) -> Option<Value> {
    let (name, counters) = line.split_once(':')?;
    let counters = counters.split_ascii_whitespace();
    let all: Vec<u64> = counters.map_while(|number| number.parse().ok()).collect();
    // Eight columns a direction: bytes, packets, errors, drops and four more.
    let [
        rx_bytes,
        rx_packets,
        rx_errors,
        rx_dropped,
        _,
        _,
        _,
        _,
        rest @ ..,
    ] = &all[..]
    else {
        return None;
    };
    let [tx_bytes, tx_packets, tx_errors, tx_dropped, ..] = rest else {
        return None;
    };
    Some(json!({
        "Name": name.trim(),
        "RxBytes": rx_bytes, "RxPackets": rx_packets,
        "RxErrors": rx_errors, "RxDropped": rx_dropped,
        "TxBytes": tx_bytes, "TxPackets": tx_packets,
        "TxErrors": tx_errors, "TxDropped": tx_dropped,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_read_from_their_columns() {
        let line = "  eth0: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0";
        let value = interface(line).unwrap();
        assert_eq!(value["Name"], "eth0");
        assert_eq!(
            (&value["RxDropped"], &value["TxBytes"]),
            (&json!(4), &json!(5))
        );
        assert!(interface("Inter-|   Receive").is_none());
        assert!(interface(" face |bytes: x").is_none());
    }

    #[test]
    fn no_limit_is_gos_largest_number() {
        let value = memory(&Memory::default());
        assert_eq!(value["usage"]["limit"], json!(u64::MAX));
    }
}
