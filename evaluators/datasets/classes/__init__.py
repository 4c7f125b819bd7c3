"""Names and colours of the benchmarks' classes, in the order of their label numbers: name,red,green,blue."""
