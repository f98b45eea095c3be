//! The built-in network: one bridge, addresses of one range, one firewall table; no program is
//! executed.
//!
//! ```text
//! pod netns            host netns
//! eth0 <- veth pair -> vw<hash> -> wherry0 (.1) -> forwarding, masquerade -> uplink
//! ```
//!
//! Synchronous, so to be called where blocking is allowed. IPv4 only as yet: a range of IPv6 would
//! be a second [`Addresses`] and a second address on the same links; the table is of the family
//! `inet` already. Traffic shaping and a watch over foreign flushes of the firewall are not here.

mod addresses;
mod bridge;
mod forwarding;
mod ports;
mod removal;
mod rules;

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::Ipv4Net;

use self::addresses::Addresses;
use self::bridge::Bridge;
use self::forwarding::Forwarding;
use self::removal::Removals;
use self::rules::Published;
use crate::netlink::route::{self, Veth};
use crate::netlink::socket::Socket;
use crate::netlink::{conntrack, nft};
use crate::netns::{self, Netns};
use crate::records::{Record, Records, Via, ipv4};
use crate::{Attached, Attachment, Config, Error, Port, failed};

/// Name of the interface inside a pod.
pub(crate) const INTERFACE: &str = "eth0";

/// The built-in network of one daemon.
#[derive(Debug)]
pub(crate) struct Builtin {
    bridge: Bridge,
    /// Ranges that pods reach, and that reach pods, without masquerade.
    routed: Vec<Ipv4Net>,
    addresses: Addresses,
    forwarding: Forwarding,
    records: Arc<Records>,
    /// Held while the bridge or the table changes: both are made from all records. Whether this run
    /// has written the table: an earlier one may have had another configuration.
    shared: Mutex<bool>,
    removals: Removals,
}

impl Builtin {
    /// Checks the configuration and opens the folders; touches no link.
    pub(crate) fn open(config: &Config, records: Arc<Records>) -> Result<Self, Error> {
        let range = bridge::parse_range(&config.subnet)?;
        let addresses = Addresses::open(config.root.join("addresses"), range)?;
        let bridge = Bridge::new(&config.bridge, range, addresses.gateway(), &config.root)?;
        let forwarding = Forwarding::new(&config.state);
        Ok(Self {
            bridge,
            routed: bridge::parse_routed(&config.routed)?,
            addresses,
            forwarding,
            records,
            shared: Mutex::new(false),
            removals: Removals::default(),
        })
    }

    /// Whether the bridge is there or could be made.
    pub(crate) fn check(&self) -> Result<(), Error> {
        self.bridge.find(&mut route_socket()?)?;
        self.check_table(&mut netfilter_socket()?).map(drop)
    }

    /// Gives the namespace its network. On failure all is undone, as far as that succeeds; what
    /// then is left, [`Builtin::detach`] finds.
    pub(crate) fn attach(&self, pod: &Attachment) -> Result<Attached, Error> {
        let ports = ports::check(&pod.ports)?;
        let record = self.reserve(pod, ports)?;
        match ports::check_programs(&record.ports).and_then(|()| self.plug(&record)) {
            Ok(()) => Ok(Attached {
                ips: record.ips,
                interface: record.interface,
                cni_result: String::new(),
            }),
            Err(error) => Err(error.after_undo(self.detach(&record.id))),
        }
    }

    /// Takes an address and puts the record on disk. Nothing else has happened yet.
    fn reserve(&self, pod: &Attachment, ports: Vec<Port>) -> Result<Record, Error> {
        let ip = self.addresses.take(&pod.id)?;
        let record = Record {
            id: pod.id.clone(),
            netns: pod.netns.clone(),
            interface: INTERFACE.to_owned(),
            ips: vec![IpAddr::V4(ip)],
            ports,
            via: Via::Builtin {
                link: bridge::veth_name(&self.bridge.mark, &pod.id),
            },
        };
        match self.records.claim(&record) {
            Ok(()) => Ok(record),
            Err(error) => Err(error.after_undo(self.addresses.release(&pod.id))),
        }
    }

    /// All effects of an attachment.
    fn plug(&self, record: &Record) -> Result<(), Error> {
        let mut host = route_socket()?;
        let bridge = self.prepare_host(&mut host)?;
        self.connect(&mut host, bridge, record)?;
        if !record.ports.is_empty() {
            self.rebuild_table()?;
            forget_udp(&record.ports)?;
        }
        Ok(())
    }

    /// Bridge, forwarding, table: made if missing. Gives the bridge's index.
    fn prepare_host(&self, host: &mut Socket) -> Result<u32, Error> {
        let mut written = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let index = self.bridge.ensure(host)?;
        self.forwarding.enable()?;
        let mut netfilter = netfilter_socket()?;
        if !self.check_table(&mut netfilter)? || !*written {
            self.write_table(&mut netfilter)?;
            *written = true;
        }
        Ok(index)
    }

    /// The pair of links, and what the pod's end needs.
    fn connect(&self, host: &mut Socket, bridge: u32, record: &Record) -> Result<(), Error> {
        let (Via::Builtin { link }, Some(ip)) = (&record.via, ipv4(record)) else {
            return Err(Error::Other(format!(
                "attachment {} is not of the bridge",
                record.id
            )));
        };
        let mut pod = netns::open(&record.netns)?;
        let what = |step: &str| failed(format!("{step} link {link} of sandbox {}", record.id));
        let veth = Veth {
            name: link,
            bridge,
            mtu: bridge::uplink_mtu(host).map_err(what("sizing"))?,
            peer_name: &record.interface,
            peer_mac: bridge::pod_mac(ip),
            netns: pod.file.as_fd(),
        };
        route::add_veth(host, &veth).map_err(what("making"))?;
        self.finish_host_end(host, link, &record.id)
            .map_err(what("setting up"))?;
        self.configure_pod(&mut pod, &record.interface, ip)
            .map_err(failed(format!(
                "configuring {} of sandbox {}",
                record.interface, record.id
            )))
    }

    fn finish_host_end(&self, host: &mut Socket, name: &str, id: &str) -> std::io::Result<()> {
        let link = route::link(host, name)?.ok_or(rustix::io::Errno::NODEV)?;
        route::set_hairpin(host, link.index)?;
        route::set_alias(host, link.index, &format!("{} {id}", self.bridge.mark))
    }

    fn configure_pod(&self, pod: &mut Netns, name: &str, ip: Ipv4Addr) -> std::io::Result<()> {
        let inside = &mut pod.socket;
        route::loopback_up(inside)?;
        let link = route::link(inside, name)?.ok_or(rustix::io::Errno::NODEV)?;
        route::add_address(inside, link.index, ip, self.bridge.range)?;
        route::set_up(inside, link.index)?;
        route::add_default_route(inside, link.index, self.bridge.gateway)
    }

    /// Undoes an attachment, from its record if there is one, else from its id alone.
    pub(crate) fn detach(&self, id: &str) -> Result<(), Error> {
        let (ports, link) = match self.records.leave(id) {
            Some(Record {
                ports,
                via: Via::Builtin { link },
                ..
            }) => (ports, link),
            _ => (vec![], bridge::veth_name(&self.bridge.mark, id)),
        };
        if !ports.is_empty() {
            self.withdraw_rules()?;
        }
        self.removals
            .remove(&link)
            .map_err(failed(format!("removing link {link} of sandbox {id}")))?;
        forget_udp(&ports)?;
        self.addresses.release(id)?;
        self.records.forget(id)
    }

    /// Frees the addresses of sandboxes that have no record.
    pub(crate) fn free_strays(&self) -> Result<(), Error> {
        let known: HashSet<String> = self.records.ids().into_iter().collect();
        self.addresses.release_where(|owner| !known.contains(owner))
    }

    /// Checks what the pods that stay need, and makes again what is missing. A pod that cannot be
    /// mended is logged, and keeps no other from it.
    pub(crate) fn mend(&self) -> Result<(), Error> {
        let staying: Vec<Record> = self.members();
        if staying.is_empty() {
            return Ok(());
        }
        let mut host = route_socket()?;
        let bridge = self.prepare_host(&mut host)?;
        for record in &staying {
            if let Err(error) = self.mend_link(&mut host, bridge, record) {
                tracing::warn!(id = record.id, %error, "the network of a pod stays broken");
            }
        }
        self.rebuild_table()
    }

    fn mend_link(&self, host: &mut Socket, bridge: u32, record: &Record) -> Result<(), Error> {
        let name = bridge::veth_name(&self.bridge.mark, &record.id);
        let what = || failed(format!("mending link {name} of sandbox {}", record.id));
        match route::link(host, &name).map_err(what())? {
            None => self.connect(host, bridge, record),
            Some(link) if link.master == bridge => Ok(()),
            Some(link) => {
                route::set_master(host, link.index, bridge).map_err(what())?;
                route::set_hairpin(host, link.index).map_err(what())
            }
        }
    }

    /// Whether the pod's link is plugged into our bridge.
    pub(crate) fn check_link(&self, record: &Record) -> Result<(), Error> {
        let mut host = route_socket()?;
        let bridge = self.bridge.find(&mut host)?.map(|link| link.index);
        let name = bridge::veth_name(&self.bridge.mark, &record.id);
        let link = route::link(&mut host, &name).map_err(failed(format!(
            "looking for link {name} of sandbox {}",
            record.id
        )))?;
        match link {
            Some(link) if Some(link.master) == bridge => Ok(()),
            _ => Err(Error::Other(format!(
                "link {name} of sandbox {} is not in bridge {}",
                record.id, self.bridge.name
            ))),
        }
    }

    /// Removes table, bridge, links and files; the records are gone already.
    pub(crate) fn reset(&self) -> Result<(), Error> {
        let _shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let mut netfilter = netfilter_socket()?;
        if self.owns_table(&mut netfilter)? {
            nft::remove(&mut netfilter, &self.bridge.name).map_err(failed(format!(
                "removing firewall table {}",
                self.bridge.name
            )))?;
        }
        self.remove_links(&mut route_socket()?)?;
        self.addresses.release_where(|_| true)
    }

    fn remove_links(&self, host: &mut Socket) -> Result<(), Error> {
        let what = || format!("removing the links of bridge {}", self.bridge.name);
        let of_a_pod = format!("{} ", self.bridge.mark);
        for link in route::links(host).map_err(failed(what()))? {
            if link.alias.starts_with(&of_a_pod) || self.bridge.is_ours(&link) {
                route::delete_link(host, &link.name).map_err(failed(what()))?;
            }
        }
        let left = route::links(host).map_err(failed(what()))?;
        self.forwarding.restore(&left)
    }

    fn rebuild_table(&self) -> Result<(), Error> {
        let _shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let mut netfilter = netfilter_socket()?;
        self.check_table(&mut netfilter)?;
        self.write_table(&mut netfilter)
    }

    /// Writes the table without the pods that leave. No table of ours: no rules to withdraw.
    fn withdraw_rules(&self) -> Result<(), Error> {
        let _shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let mut netfilter = netfilter_socket()?;
        if self.owns_table(&mut netfilter)? {
            self.write_table(&mut netfilter)
        } else {
            Ok(())
        }
    }

    fn owns_table(&self, netfilter: &mut Socket) -> Result<bool, Error> {
        let owner = self.table_owner(netfilter)?;
        Ok(owner.is_some_and(|owner| owner == self.bridge.mark))
    }

    fn table_owner(&self, netfilter: &mut Socket) -> Result<Option<String>, Error> {
        let name = &self.bridge.name;
        nft::owner(netfilter, name).map_err(failed(format!("looking for firewall table {name}")))
    }

    /// Whether our table is there; a foreign one of its name is a conflict.
    fn check_table(&self, netfilter: &mut Socket) -> Result<bool, Error> {
        let name = &self.bridge.name;
        match self.table_owner(netfilter)? {
            None => Ok(false),
            Some(owner) if owner == self.bridge.mark => Ok(true),
            Some(owner) => Err(Error::Conflict(format!(
                "firewall table inet {name} exists and is not ours (comment {owner:?}); set \
                 another bridge name"
            ))),
        }
    }

    fn write_table(&self, netfilter: &mut Socket) -> Result<(), Error> {
        let published: Vec<Published> = self
            .members()
            .into_iter()
            .filter_map(|record| {
                Some(Published {
                    address: ipv4(&record)?,
                    ports: record.ports,
                })
            })
            .collect();
        let bridge = &self.bridge;
        let (name, mark) = (&bridge.name, &bridge.mark);
        let table = rules::table(name, mark, bridge.range, &self.routed, &published);
        nft::replace(netfilter, &table).map_err(failed(format!(
            "writing firewall table {} (the kernel must have nf_tables with nat, masq and fib)",
            bridge.name
        )))
    }

    /// The records of this network.
    fn members(&self) -> Vec<Record> {
        let mut staying = self.records.staying();
        staying.retain(|record| matches!(record.via, Via::Builtin { .. }));
        staying
    }
}

fn forget_udp(ports: &[Port]) -> Result<(), Error> {
    let udp: Vec<u16> = ports
        .iter()
        .filter(|port| port.protocol == "udp")
        .map(|port| port.host)
        .collect();
    if udp.is_empty() {
        return Ok(());
    }
    conntrack::forget_udp(&mut netfilter_socket()?, &udp)
        .map_err(failed("forgetting tracked connections of host ports"))
}

fn route_socket() -> Result<Socket, Error> {
    Socket::route().map_err(failed("opening a route socket"))
}

fn netfilter_socket() -> Result<Socket, Error> {
    Socket::netfilter().map_err(failed("opening a netfilter socket"))
}
