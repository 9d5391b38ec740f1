"""One HTML page of runs that opens anywhere: what was run, its scores beside the paper's, mistakes, curves and cost."""
