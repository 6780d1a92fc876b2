//! Messages as others read them: pcapng files for Wireshark, HEPv3 datagrams for Homer and sngrep.

pub mod hep;
pub mod pcapng;
