//! A new migration is a reason to build anew.
fn main() {
    for folder in ["migrations", "bridge", "families", "schemas"] {
        println!("cargo:rerun-if-changed=../{folder}");
    }
}
