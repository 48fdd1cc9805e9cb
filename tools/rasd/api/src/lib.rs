//! What rasd and rasctl say to each other.
