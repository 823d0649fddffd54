//! Words to the user.
