//! What a container uses, in the form in which `events` reports it (runc's types/events.go).

use cgroup::{
    Account, CpuAccount, CpusetAccount, HugePageAccount, IoAccount, IoEntry, MemoryAccount,
    MemoryUse, Pressure, PressureLine,
};
use serde_json::{Map, Value, json};

use crate::container::Container;
use crate::failure::Result;
use crate::rdt;

/// The figures of one moment.
pub(super) fn of(container: &Container) -> Result<Value> {
    let Account {
        cpu: cpu_account,
        cpuset: cpuset_account,
        memory: memory_account,
        pids,
        io,
        huge_pages,
    } = container.group()?.account()?;
    let huge_pages = huge_pages.iter();
    let huge_pages: Map<String, Value> = huge_pages
        .map(|(size, account)| (size.clone(), huge(account)))
        .collect();
    Ok(json!({
        "cpu": cpu(&cpu_account),
        "cpuset": cpuset(&cpuset_account),
        "memory": memory(&memory_account),
        "pids": { "current": pids.current, "limit": pids.limit },
        "blkio": blkio(&io),
        "hugetlb": huge_pages,
        "intel_rdt": container.state.wrun.rdt.as_ref().map_or_else(|| json!({}), rdt::figures),
        "network_interfaces": interfaces(container.state.init_process_pid),
    }))
}

fn with_pressure(mut value: Value, pressure: Option<&Pressure>) -> Value {
    if let Some(pressure) = pressure {
        value["psi"] = psi(pressure);
    }
    value
}

fn cpu(cpu: &CpuAccount) -> Value {
    let value = json!({
        "usage": {
            "total": cpu.total_ns,
            "percpu": cpu.per_cpu_ns,
            "percpu_kernel": cpu.per_cpu_kernel_ns,
            "percpu_user": cpu.per_cpu_user_ns,
            "kernel": cpu.kernel_ns,
            "user": cpu.user_ns,
        },
        "throttling": {
            "periods": cpu.periods,
            "throttledPeriods": cpu.throttled_periods,
            "throttledTime": cpu.throttled_ns,
        },
    });
    with_pressure(value, cpu.pressure.as_ref())
}

fn cpuset(cpuset: &CpusetAccount) -> Value {
    json!({
        "cpus": cpuset.cpus,
        "cpu_exclusive": cpuset.cpu_exclusive,
        "mems": cpuset.mems,
        "mem_hardwall": cpuset.mem_hardwall,
        "mem_exclusive": cpuset.mem_exclusive,
        "memory_migrate": cpuset.memory_migrate,
        "memory_spread_page": cpuset.memory_spread_page,
        "memory_spread_slab": cpuset.memory_spread_slab,
        "memory_pressure": cpuset.memory_pressure,
        "sched_load_balance": cpuset.sched_load_balance,
        "sched_relax_domain_level": cpuset.sched_relax_domain_level,
    })
}

fn memory(memory: &MemoryAccount) -> Value {
    let value = json!({
        "cache": memory.cache,
        "usage": used(&memory.usage),
        "swap": used(&memory.swap),
        "kernel": used(&memory.kernel),
        "kernelTCP": used(&memory.kernel_tcp),
        "raw": memory.raw,
    });
    with_pressure(value, memory.pressure.as_ref())
}

fn used(one: &MemoryUse) -> Value {
    json!({
        "limit": one.limit,
        "usage": one.usage,
        "max": one.max,
        "failcnt": one.failures,
    })
}

fn huge(account: &HugePageAccount) -> Value {
    json!({ "usage": account.usage, "max": account.max, "failcnt": account.failures })
}

fn blkio(io: &IoAccount) -> Value {
    let all = |entries: &[IoEntry]| -> Vec<Value> { entries.iter().map(entry).collect() };
    let value = json!({
        "ioServiceBytesRecursive": all(&io.service_bytes),
        "ioServicedRecursive": all(&io.serviced),
        "ioQueueRecursive": all(&io.queued),
        "ioServiceTimeRecursive": all(&io.service_time),
        "ioWaitTimeRecursive": all(&io.wait_time),
        "ioMergedRecursive": all(&io.merged),
        "ioTimeRecursive": all(&io.time),
        "sectorsRecursive": all(&io.sectors),
    });
    with_pressure(value, io.pressure.as_ref())
}

fn entry(entry: &IoEntry) -> Value {
    json!({
        "major": entry.major,
        "minor": entry.minor,
        "op": entry.operation,
        "value": entry.value,
    })
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
    fn pressure_is_there_where_it_is_accounted() {
        let cpu_of = |pressure| {
            cpu(&CpuAccount {
                pressure,
                ..CpuAccount::default()
            })
        };
        assert!(cpu_of(None).get("psi").is_none());
        assert!(cpu_of(Some(Pressure::default()))["psi"]["some"]["total"].is_u64());
    }
}
