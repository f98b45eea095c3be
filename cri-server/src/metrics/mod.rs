//! The daemon's own metrics, for Prometheus: what there is ([`table`]), what is counted as it
//! happens ([`recorder`]), what is read when somebody looks ([`gather`]), and where ([`http`]).
//!
//! Figures of pods and containers are not here: kubelet and cAdvisor have those, by CRI.

mod gather;
pub(crate) mod http;
mod process;
mod recorder;
mod table;

pub(crate) use gather::{Sources, text};
pub(crate) use recorder::{Recorder, code_name};
pub(crate) use table::markdown;
