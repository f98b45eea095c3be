//! The firewall: tables, chains and rules of nf_tables, changed in one transaction.
//!
//! A [`Table`] says what a whole table shall hold; [`replace`] makes it so in one atomic batch,
//! whatever was there before, and [`remove`] takes it away. Only our own table is ever named. A
//! [`Rule`] is built from small steps that mirror what `nft list ruleset` shows. Numbers are from
//! linux/netfilter/nf_tables.h.

use std::io;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use rustix::io::Errno;

use super::message::{Message, attribute, flag};
use super::socket::Socket;

/// The family that sees IPv4 and IPv6.
const NFPROTO_INET: u8 = 1;
const NFPROTO_IPV4: u8 = 2;
const SUBSYSTEM: u16 = 10 << 8;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEWTABLE: u16 = SUBSYSTEM;
const GETTABLE: u16 = SUBSYSTEM | 1;
const DELTABLE: u16 = SUBSYSTEM | 2;
const NEWCHAIN: u16 = SUBSYSTEM | 3;
const NEWRULE: u16 = SUBSYSTEM | 6;
const DELRULE: u16 = SUBSYSTEM | 8;

const TABLE_NAME: u16 = 1;
const TABLE_USERDATA: u16 = 6;
/// User data is a list of (kind, length, value); kind 0 is the comment that `nft` shows.
const USERDATA_COMMENT: u8 = 0;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const LIST_ELEM: u16 = 1;
const EXPR_NAME: u16 = 1;
const EXPR_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;

const VERDICT_REGISTER: u32 = 0;
const REGISTER: u32 = 1;
const SECOND_REGISTER: u32 = 2;
const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;
const NFT_JUMP: u32 = 3_u32.wrapping_neg();
/// Bytes of a link's name in a comparison.
const IFNAMSIZ: usize = 16;

/// Where in a packet's life a chain is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    /// Came in, not yet routed.
    Prerouting = 0,
    /// Passes through.
    Forward = 2,
    /// Made here.
    Output = 3,
    /// About to leave.
    Postrouting = 4,
}

/// What hangs a chain into the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Base {
    /// `filter` or `nat`.
    pub(crate) kind: &'static str,
    pub(crate) hook: Hook,
    pub(crate) priority: i32,
}

/// A list of rules.
#[derive(Clone, Debug)]
pub(crate) struct Chain {
    pub(crate) name: &'static str,
    /// `None`: called by other chains only.
    pub(crate) base: Option<Base>,
    pub(crate) rules: Vec<Rule>,
}

/// All that a table shall hold. A chain comes before those that jump to it.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) name: String,
    /// Whose it is; shown by `nft` as the table's comment.
    pub(crate) owner: String,
    pub(crate) chains: Vec<Chain>,
}

/// `==` or `!=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Is {
    Equal = 0,
    Other = 1,
}

/// Which link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// `iifname`.
    Incoming = 6,
    /// `oifname`.
    Outgoing = 7,
}

/// Which address of the IPv4 header: its offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Source = 12,
    Destination = 16,
}

/// A fact of connection tracking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tracked {
    /// `ct state established,related`.
    Known,
    /// `ct status dnat`.
    Redirected,
}

/// A rule: matches, then a verdict.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    expressions: Message,
}

impl Rule {
    pub(crate) fn new() -> Self {
        Self {
            expressions: Message::new(0, 0, &[]),
        }
    }

    /// `iifname`, `oifname`.
    pub(crate) fn link(self, side: Side, is: Is, name: &str) -> Self {
        let mut bytes = name.as_bytes().to_vec();
        bytes.resize(IFNAMSIZ, 0);
        self.meta(side as u32).compare(is, &bytes)
    }

    /// `meta nfproto ipv4`.
    pub(crate) fn ipv4(self) -> Self {
        self.meta(15).compare(Is::Equal, &[NFPROTO_IPV4])
    }

    /// `ip saddr`, `ip daddr`; says [`Rule::ipv4`] by itself.
    pub(crate) fn address(self, end: End, is: Is, range: Ipv4Net) -> Self {
        let rule = self.ipv4().expression("payload", |data| {
            data.put_be32(1, REGISTER)
                .put_be32(2, 1)
                .put_be32(3, end as u32)
                .put_be32(4, 4);
        });
        rule.masked(range.netmask().octets())
            .compare(is, &range.network().octets())
    }

    /// `fib daddr type local`: the packet is for an address of this host.
    pub(crate) fn for_this_host(self) -> Self {
        const RTN_LOCAL: u32 = 2;
        self.expression("fib", |data| {
            data.put_be32(1, REGISTER).put_be32(2, 3).put_be32(3, 2);
        })
        .compare(Is::Equal, &RTN_LOCAL.to_ne_bytes())
    }

    /// `meta l4proto N th dport PORT`.
    pub(crate) fn port(self, protocol: u8, port: u16) -> Self {
        self.meta(16)
            .compare(Is::Equal, &[protocol])
            .expression("payload", |data| {
                data.put_be32(1, REGISTER)
                    .put_be32(2, 2)
                    .put_be32(3, 2)
                    .put_be32(4, 2);
            })
            .compare(Is::Equal, &port.to_be_bytes())
    }

    /// `ct state`, `ct status`.
    pub(crate) fn tracked(self, fact: Tracked) -> Self {
        let (key, bits): (u32, u32) = match fact {
            Tracked::Known => (0, 2 | 4),
            Tracked::Redirected => (2, 0x20),
        };
        self.expression("ct", |data| {
            data.put_be32(1, REGISTER).put_be32(2, key);
        })
        .masked(bits.to_ne_bytes())
        .compare(Is::Other, &[0; 4])
    }

    /// Ends: let it pass this table.
    pub(crate) fn accept(self) -> Self {
        self.verdict(NF_ACCEPT, None)
    }

    /// Ends: throw it away.
    pub(crate) fn drop(self) -> Self {
        self.verdict(NF_DROP, None)
    }

    /// Goes on in the chain, and comes back.
    pub(crate) fn jump(self, chain: &str) -> Self {
        self.verdict(NFT_JUMP, Some(chain))
    }

    /// Ends: it leaves with the address of the link that it leaves by.
    pub(crate) fn masquerade(self) -> Self {
        self.expression("masq", |_| {})
    }

    /// Ends: it goes to that address and port.
    pub(crate) fn redirect(self, address: Ipv4Addr, port: u16) -> Self {
        self.load(REGISTER, &address.octets())
            .load(SECOND_REGISTER, &port.to_be_bytes())
            .expression("nat", |data| {
                data.put_be32(1, 1)
                    .put_be32(2, u32::from(NFPROTO_IPV4))
                    .put_be32(3, REGISTER)
                    .put_be32(5, SECOND_REGISTER);
            })
    }

    fn expression(mut self, name: &str, fill: impl FnOnce(&mut Message)) -> Self {
        self.expressions.nest(LIST_ELEM, |element| {
            element.put_str(EXPR_NAME, name).nest(EXPR_DATA, fill);
        });
        self
    }

    fn meta(self, key: u32) -> Self {
        self.expression("meta", |data| {
            data.put_be32(1, REGISTER).put_be32(2, key);
        })
    }

    fn compare(self, is: Is, value: &[u8]) -> Self {
        self.expression("cmp", |data| {
            data.put_be32(1, REGISTER)
                .put_be32(2, is as u32)
                .nest(3, |operand| {
                    operand.put(DATA_VALUE, value);
                });
        })
    }

    fn masked(self, mask: [u8; 4]) -> Self {
        self.expression("bitwise", |data| {
            data.put_be32(1, REGISTER)
                .put_be32(2, REGISTER)
                .put_be32(3, 4);
            data.nest(4, |operand| {
                operand.put(DATA_VALUE, &mask);
            });
            data.nest(5, |operand| {
                operand.put(DATA_VALUE, &[0; 4]);
            });
        })
    }

    fn load(self, register: u32, value: &[u8]) -> Self {
        self.expression("immediate", |data| {
            data.put_be32(1, register).nest(2, |operand| {
                operand.put(DATA_VALUE, value);
            });
        })
    }

    fn verdict(self, code: u32, chain: Option<&str>) -> Self {
        self.expression("immediate", |data| {
            data.put_be32(1, VERDICT_REGISTER).nest(2, |operand| {
                operand.nest(DATA_VERDICT, |verdict| {
                    verdict.put_be32(1, code);
                    if let Some(chain) = chain {
                        verdict.put_str(2, chain);
                    }
                });
            });
        })
    }
}

/// Makes the table hold exactly that, in one transaction.
pub(crate) fn replace(socket: &mut Socket, table: &Table) -> io::Result<()> {
    let mut batch = vec![
        batch_edge(BATCH_BEGIN),
        new_table(&table.name, &table.owner),
    ];
    batch.extend(
        table
            .chains
            .iter()
            .map(|chain| new_chain(&table.name, chain)),
    );
    batch.push(flush(&table.name));
    for chain in &table.chains {
        batch.extend(
            chain
                .rules
                .iter()
                .map(|rule| new_rule(&table.name, chain.name, rule)),
        );
    }
    commit(socket, batch)
}

/// Removes the table and all in it; gone already is no error.
pub(crate) fn remove(socket: &mut Socket, name: &str) -> io::Result<()> {
    // Made first, so that its absence is no special case; nobody sees it in between.
    let batch = vec![
        batch_edge(BATCH_BEGIN),
        new_table(name, ""),
        delete_table(name),
    ];
    commit(socket, batch)
}

/// The owner written onto the table of that name; `None` if there is no such table.
pub(crate) fn owner(socket: &mut Socket, name: &str) -> io::Result<Option<String>> {
    let mut message = request(GETTABLE, 0);
    message.put_str(TABLE_NAME, name);
    let mut owner = String::new();
    let asked = socket.get(message, |received| {
        let data = received
            .payload
            .get(4..)
            .and_then(|body| attribute(body, TABLE_USERDATA));
        owner = data.map(comment).unwrap_or_default();
    });
    match asked {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => Ok(None),
        other => other.map(|()| Some(owner)),
    }
}

fn commit(socket: &mut Socket, mut batch: Vec<Message>) -> io::Result<()> {
    let answered = batch.len() - 1;
    batch.push(batch_edge(BATCH_END));
    socket.transact(batch, answered)
}

/// A message with `struct nfgenmsg`.
fn request(kind: u16, flags: u16) -> Message {
    Message::new(kind, flags, &[NFPROTO_INET, 0, 0, 0])
}

fn batch_edge(kind: u16) -> Message {
    Message::new(kind, 0, &[0, 0, 0, 10])
}

fn new_table(name: &str, owner: &str) -> Message {
    let mut message = request(NEWTABLE, flag::CREATE);
    message.put_str(TABLE_NAME, name);
    if let Ok(length) = u8::try_from(owner.len() + 1) {
        let mut data = vec![USERDATA_COMMENT, length];
        data.extend(owner.as_bytes());
        data.push(0);
        message.put(TABLE_USERDATA, &data);
    }
    message
}

fn comment(data: &[u8]) -> String {
    match data {
        [USERDATA_COMMENT, length, rest @ ..] => {
            super::message::text(rest.get(..usize::from(*length)).unwrap_or(rest))
        }
        _ => String::new(),
    }
}

fn delete_table(name: &str) -> Message {
    let mut message = request(DELTABLE, 0);
    message.put_str(TABLE_NAME, name);
    message
}

fn new_chain(table: &str, chain: &Chain) -> Message {
    let mut message = request(NEWCHAIN, flag::CREATE);
    message
        .put_str(CHAIN_TABLE, table)
        .put_str(CHAIN_NAME, chain.name);
    if let Some(base) = chain.base {
        message.nest(CHAIN_HOOK, |hook| {
            hook.put_be32(1, base.hook as u32)
                .put_be32(2, base.priority.cast_unsigned());
        });
        message
            .put_be32(CHAIN_POLICY, NF_ACCEPT)
            .put_str(CHAIN_TYPE, base.kind);
    }
    message
}

/// Removes all rules of all chains of the table.
fn flush(table: &str) -> Message {
    let mut message = request(DELRULE, 0);
    message.put_str(RULE_TABLE, table);
    message
}

fn new_rule(table: &str, chain: &str, rule: &Rule) -> Message {
    let mut message = request(NEWRULE, flag::CREATE | flag::APPEND);
    message
        .put_str(RULE_TABLE, table)
        .put_str(RULE_CHAIN, chain);
    message.nest(RULE_EXPRESSIONS, |list| {
        list.raw(rule.expressions.body());
    });
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_of_a_table_reads_back() {
        let bytes = new_table("t", "wherry:12").finish(1);
        let body = &bytes[super::super::message::HEADER + 4..];
        assert_eq!(
            comment(attribute(body, TABLE_USERDATA).unwrap()),
            "wherry:12"
        );
        assert_eq!(comment(&[]), "");
        assert_eq!(comment(&[0, 200, b'x']), "x", "a length that lies");
    }
}
