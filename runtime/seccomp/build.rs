//! Packs `data/syscalls.tsv` into arrays without pointers, so that the table needs no relocation
//! and only the pages that a lookup touches are read.

use std::fmt::Write as _;
use std::path::PathBuf;

#[path = "src/hash.rs"]
mod hash;

/// Columns of numbers in the table; the order is that of `arch::Arch`.
const ARCHS: usize = 6;

fn main() {
    let table = std::fs::read_to_string("data/syscalls.tsv").expect("the table is in the crate");
    let rows: Vec<Vec<&str>> = table
        .lines()
        .filter(|line| !line.starts_with('#'))
        .skip(1)
        .map(|line| line.split('\t').collect())
        .collect();
    assert!(
        rows.len() * 2 < hash::SLOTS,
        "the hash table must stay half empty"
    );
    let code = [names(&rows), numbers(&rows), slots(&rows)].concat();
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    std::fs::write(out.join("table.rs"), code).expect("OUT_DIR can be written");
}

fn names(rows: &[Vec<&str>]) -> String {
    let mut all = String::new();
    let mut ends = String::from("0, ");
    for row in rows {
        all.push_str(row[0]);
        write!(ends, "{}, ", all.len()).expect("a string can be written");
    }
    let count = rows.len();
    format!(
        "pub(super) const COUNT: usize = {count};\n\
         pub(super) static NAMES: &str = \"{all}\";\n\
         pub(super) static ENDS: [u16; COUNT + 1] = [{ends}];\n"
    )
}

fn numbers(rows: &[Vec<&str>]) -> String {
    let mut code = format!("pub(super) static NUMBERS: [[u32; COUNT]; {ARCHS}] = [\n");
    for column in 1..=ARCHS {
        code.push('[');
        for row in rows {
            let number = match row[column] {
                "-" => u32::MAX,
                digits => digits.parse().expect("a number of the table"),
            };
            write!(code, "{number}, ").expect("a string can be written");
        }
        code.push_str("],\n");
    }
    code + "];\n"
}

fn slots(rows: &[Vec<&str>]) -> String {
    let mut slots = vec![u16::MAX; hash::SLOTS];
    for (index, row) in rows.iter().enumerate() {
        let mut at = hash::slot(row[0]);
        while slots[at] != u16::MAX {
            at = (at + 1) % hash::SLOTS;
        }
        slots[at] = u16::try_from(index).expect("fewer rows than u16 holds");
    }
    format!(
        "pub(super) static SLOTS: [u16; {}] = {slots:?};\n",
        hash::SLOTS
    )
}
