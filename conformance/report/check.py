def check_report(path): return []
