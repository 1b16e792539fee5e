def write(everything, results_of, proxy):
    pass
