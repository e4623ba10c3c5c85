"Print constraints that hold every package of `settings.ini` at the oldest version that it allows"
import configparser, re
from pathlib import Path

cfg = configparser.ConfigParser(delimiters=['='])
cfg.read(Path(__file__).parents[1]/'settings.ini', encoding='utf-8')
for name, version in re.findall(r'([\w-]+)>=([\d.]+)', cfg['DEFAULT']['requirements']): print(f'{name}~={".".join((version.split(".") + ["0", "0"])[:3])}')
