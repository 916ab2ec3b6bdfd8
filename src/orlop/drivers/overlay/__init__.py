"""The overlay driver: a layer keeps what it changes, and the kernel shows it on top of the others.

`driver` is the face of it (`spec/drivers.md` 4). The other files have a part each: `layout` and `links` where things
lie and what names them, `options` what was asked for, `probe` what the kernel can do, `opening` what comes of both,
`mounting` and `program` how layers are made visible, `diffing` what a layer changed, `reown` layers with new owners.
"""
