//! Plugins of the node (NRI), with one on the interface's own library.

mod adjusting;
mod classes;
mod failing;
mod hearing;
mod plugin;
mod several;
