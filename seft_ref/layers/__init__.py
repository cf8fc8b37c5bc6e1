"""The layers of the decoder, one file each: a forward, and directly below it its backward; start at linear."""
