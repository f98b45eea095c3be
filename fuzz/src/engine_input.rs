//! What the daemon and its shims say to each other.

use std::fmt::Debug;

use prost::Message;

/// A packet of either side, or an exit record: read, written and read again it is the same.
pub(crate) fn shim_message(bytes: &[u8]) {
    same::<shim_api::Request>(bytes);
    same::<shim_api::Message>(bytes);
    same::<shim_api::ExitRecord>(bytes);
}

fn same<T: Message + Default + PartialEq + Debug>(bytes: &[u8]) {
    if let Ok(message) = T::decode(bytes) {
        let again = T::decode(&message.encode_to_vec()[..]).expect("what was written is read");
        assert_eq!(again, message);
    }
}
