//! What must be refused, with an error that names it, and leave nothing.
