"""The small language of conference talks: templates with slots in English, German and Chinese.

A sentence is a template and one filler for each slot; all three languages are rendered from the same fillers.
German nouns carry their gender, and a slot names determiner and case: ``{T:der.acc}``.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Word:
    """One filler in three languages; `gender` is given for German nouns, `more` for comparatives (English, German)."""

    en: str
    de: str
    zh: str
    gender: str = ""
    more: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class Sentence:
    """The same sentence in three languages."""

    en: str
    de: str
    zh: str


def _nouns(rows: str) -> tuple[Word, ...]:
    return tuple(
        Word(en.strip(), de.strip(), zh.strip(), gender.strip())
        for en, de, gender, zh in (row.split("|") for row in rows.strip().splitlines())
    )


def _words(rows: str) -> tuple[Word, ...]:
    return tuple(
        Word(en.strip(), de.strip(), zh.strip()) for en, de, zh in (row.split("|") for row in rows.strip().splitlines())
    )


def _numbers(low: int, high: int) -> tuple[Word, ...]:
    return tuple(Word(str(n), str(n), str(n)) for n in range(low, high))


THINGS = _nouns("""
model|Modell|n|模型
encoder|Encoder|m|编码器
decoder|Decoder|m|解码器
system|System|n|系统
network|Netz|n|网络
method|Methode|f|方法
approach|Ansatz|m|方案
algorithm|Algorithmus|m|算法
parser|Parser|m|分析器
tokenizer|Tokenizer|m|分词器
classifier|Klassifikator|m|分类器
baseline|Baseline|f|基线
pipeline|Pipeline|f|流水线
adapter|Adapter|m|适配器
framework|Framework|n|框架
teacher model|Lehrermodell|n|教师模型
student model|Schülermodell|n|学生模型
search engine|Suchmaschine|f|搜索引擎
toolkit|Werkzeugkasten|m|工具包
interface|Schnittstelle|f|接口
recognizer|Erkenner|m|识别器
translator|Übersetzer|m|翻译器
loss function|Verlustfunktion|f|损失函数
chatbot|Chatbot|m|聊天机器人
vocoder|Vocoder|m|声码器
ranker|Ranker|m|排序器
""")

DATA = _nouns("""
corpus|Korpus|n|语料库
lexicon|Lexikon|n|词典
data set|Datensatz|m|数据集
test set|Testsatz|m|测试集
training set|Trainingssatz|m|训练集
recording|Aufnahme|f|录音
transcript|Transkript|n|转写稿
glossary|Glossar|n|术语表
collection|Sammlung|f|资料集
benchmark|Benchmark|m|评测集
archive|Archiv|n|档案
paper|Aufsatz|m|论文
appendix|Anhang|m|附录
""")

TASKS = _words("""
speech translation|Sprachübersetzung|语音翻译
speech recognition|Spracherkennung|语音识别
speech synthesis|Sprachsynthese|语音合成
question answering|Fragebeantwortung|问答
text generation|Texterzeugung|文本生成
summarization|Textzusammenfassung|摘要
topic detection|Themenerkennung|主题检测
sentiment analysis|Stimmungsanalyse|情感分析
subtitling|Untertitelung|字幕制作
word segmentation|Wortsegmentierung|分词
spell checking|Rechtschreibprüfung|拼写检查
error correction|Fehlerkorrektur|纠错
dialogue modeling|Dialogmodellierung|对话建模
information retrieval|Informationssuche|信息检索
language modeling|Sprachmodellierung|语言建模
""")

METRICS = _nouns("""
accuracy|Genauigkeit|f|准确率
quality|Qualität|f|质量
latency|Verzögerung|f|延迟
error rate|Fehlerrate|f|错误率
memory footprint|Speicherbedarf|m|内存占用
cost|Aufwand|m|成本
coverage|Abdeckung|f|覆盖率
speed|Geschwindigkeit|f|速度
perplexity|Perplexität|f|困惑度
score|Wert|m|得分
recall|Trefferquote|f|召回率
agreement|Übereinstimmung|f|一致性
""")

LANGUAGES = _words("""
English|Englisch|英语
German|Deutsch|德语
Chinese|Chinesisch|中文
Japanese|Japanisch|日语
French|Französisch|法语
Spanish|Spanisch|西班牙语
Arabic|Arabisch|阿拉伯语
Czech|Tschechisch|捷克语
Turkish|Türkisch|土耳其语
Italian|Italienisch|意大利语
Russian|Russisch|俄语
Polish|Polnisch|波兰语
Korean|Koreanisch|韩语
Portuguese|Portugiesisch|葡萄牙语
Finnish|Finnisch|芬兰语
Hungarian|Ungarisch|匈牙利语
Dutch|Niederländisch|荷兰语
Swedish|Schwedisch|瑞典语
""")

PEOPLE = _words("""
Anna|Anna|安娜
Maria|Maria|玛丽亚
Thomas|Thomas|托马斯
Peter|Peter|彼得
Laura|Laura|劳拉
Daniel|Daniel|丹尼尔
Sofia|Sofia|索菲亚
Martin|Martin|马丁
Julia|Julia|朱莉娅
David|David|大卫
Elena|Elena|埃琳娜
Robert|Robert|罗伯特
Helen|Helen|海伦
Victor|Victor|维克多
Nadia|Nadia|纳迪娅
Oscar|Oscar|奥斯卡
Simon|Simon|西蒙
Clara|Clara|克拉拉
Marco|Marco|马可
Ingrid|Ingrid|英格丽德
""")

CITIES = _words("""
Dublin|Dublin|都柏林
Vienna|Wien|维也纳
Prague|Prag|布拉格
Berlin|Berlin|柏林
Zurich|Zürich|苏黎世
London|London|伦敦
Paris|Paris|巴黎
Rome|Rom|罗马
Madrid|Madrid|马德里
Lisbon|Lissabon|里斯本
Warsaw|Warschau|华沙
Toronto|Toronto|多伦多
Seattle|Seattle|西雅图
Beijing|Peking|北京
Shanghai|Shanghai|上海
Tokyo|Tokio|东京
Bangkok|Bangkok|曼谷
Helsinki|Helsinki|赫尔辛基
""")

QUALITIES = tuple(
    Word(en, de, zh, more=(more_en, more_de))
    for en, more_en, de, more_de, zh in (
        row.split("|")
        for row in """
robust|more robust|robust|robuster|稳健
fast|faster|schnell|schneller|快
slow|slower|langsam|langsamer|慢
small|smaller|klein|kleiner|小
large|larger|groß|größer|大
simple|simpler|einfach|einfacher|简单
complex|more complex|komplex|komplexer|复杂
accurate|more accurate|genau|genauer|准确
reliable|more reliable|zuverlässig|zuverlässiger|可靠
expensive|more expensive|teuer|teurer|昂贵
cheap|cheaper|billig|billiger|便宜
stable|more stable|stabil|stabiler|稳定
flexible|more flexible|flexibel|flexibler|灵活
useful|more useful|nützlich|nützlicher|有用
noisy|noisier|laut|lauter|吵
fragile|more fragile|zerbrechlich|zerbrechlicher|脆弱
""".strip().splitlines()
    )
)

TECHNIQUES = _words("""
pruning|Pruning|剪枝
quantization|Quantisierung|量化
distillation|Destillation|蒸馏
attention|Aufmerksamkeit|注意力
beam search|Strahlsuche|束搜索
data augmentation|Datenerweiterung|数据增强
back translation|Rückübersetzung|回译
dropout|Dropout|随机失活
weight sharing|Gewichtsteilung|权重共享
early stopping|Frühabbruch|早停
label smoothing|Labelglättung|标签平滑
transfer learning|Transferlernen|迁移学习
forced alignment|Zwangsausrichtung|强制对齐
sampling|Stichprobenziehung|采样
fine tuning|Feinabstimmung|微调
voting|Abstimmung|投票
""")

TROUBLES = _words("""
noise|Rauschen|噪声
background music|Hintergrundmusik|背景音乐
domain shift|Domänenwechsel|领域偏移
hallucination|Halluzination|幻觉
code switching|Sprachwechsel|语码转换
silence|Stille|静音
ambiguity|Mehrdeutigkeit|歧义
overfitting|Überanpassung|过拟合
data leakage|Datenleck|数据泄漏
slang|Umgangssprache|俚语
sarcasm|Sarkasmus|讽刺
laughter|Gelächter|笑声
rare vocabulary|Fachvokabular|生僻词汇
fast speech|Schnellsprechen|快速语音
""")

RESOURCES = _words("""
memory|Speicher|内存
data|Daten|数据
time|Zeit|时间
energy|Energie|能量
supervision|Überwachung|监督
bandwidth|Bandbreite|带宽
""")

PAST = _words("""
last year|letztes Jahr|去年
last week|letzte Woche|上周
yesterday|gestern|昨天
last month|letzten Monat|上个月
two days ago|vor zwei Tagen|两天前
last summer|letzten Sommer|去年夏天
""")

FUTURE = _words("""
tomorrow|morgen|明天
next week|nächste Woche|下周
next month|nächsten Monat|下个月
next year|nächstes Jahr|明年
tonight|heute Abend|今晚
this winter|diesen Winter|今年冬天
""")

SLOTS: dict[str, tuple[Word, ...]] = {
    "T": THINGS,
    "D": DATA,
    "K": TASKS,
    "M": METRICS,
    "L": LANGUAGES,
    "P": PEOPLE,
    "C": CITIES,
    "A": QUALITIES,
    "X": TECHNIQUES,
    "Z": TROUBLES,
    "R": RESOURCES,
    "W": PAST,
    "F": FUTURE,
    "N": _numbers(2, 100),
    "Y": _numbers(2010, 2030),
}

TEMPLATES: tuple[tuple[str, str, str], ...] = tuple(
    (en.strip(), de.strip(), zh.strip())
    for en, de, zh in (
        row.split("|")
        for row in """
Welcome to {C}, my name is {P}.|Willkommen in {C}, ich heiße {P}.|欢迎来到{C},我叫{P}。
I am {P} and I work in {C}.|Ich bin {P} und arbeite in {C}.|我是{P},在{C}工作。
This is joint work with {P} and {P2}.|Das ist eine gemeinsame Arbeit mit {P} und {P2}.|这是我和{P}、{P2}的合作成果。
Today I will talk about {K}.|Heute spreche ich über {K}.|今天我要讲的是{K}。
We present a {T} for {K}.|Wir stellen {T:ein.acc} für {K} vor.|我们提出了一个用于{K}的{T}。
Our {T} is {A} and {A2}.|{T:unser.nom} ist {A} und {A2}.|我们的{T}既{A}又{A2}。
The {T} is {A:more} than the {T2}.|{T:der.nom} ist {A:more} als {T2:der.nom}.|{T}比{T2}更{A}。
The {T} is not {A}, but it works.|{T:der.nom} ist nicht {A}, aber {T:er} funktioniert.|{T}不{A},但是能用。
We trained the {T} on {N} hours of {L} speech.|Wir haben {T:der.acc} auf {N} Stunden {L:er} Sprache trainiert.|我们用{N}小时的{L}语音训练了{T}。
It reaches {N} percent on the {D}.|Es erreicht {N} Prozent auf {D:der.dat}.|它在{D}上达到了百分之{N}。
The {M} drops by {N} percent.|{M:der.nom} sinkt um {N} Prozent.|{M}下降了百分之{N}。
The {M} rises from {N} to {N2}.|{M:der.nom} steigt von {N} auf {N2}.|{M}从{N}上升到{N2}。
We remove {N} layers from the {T}.|Wir entfernen {N} Schichten aus {T:der.dat}.|我们从{T}中去掉{N}层。
We translate from {L} into {L2}.|Wir übersetzen aus dem {L:en} ins {L2:e}.|我们从{L}翻译成{L2}。
{L} is harder than {L2}.|{L} ist schwieriger als {L2}.|{L}比{L2}难。
The {D} contains {N} sentences in {L}.|{D:der.nom} enthält {N} Sätze auf {L}.|{D}包含{N}句{L}。
Most errors come from {Z}.|Die meisten Fehler kommen von {Z}.|大多数错误来自{Z}。
The main problem is {Z}.|Das Hauptproblem ist {Z}.|主要问题是{Z}。
How does the {T} handle {Z}?|Wie geht {T:der.nom} mit {Z} um?|{T}如何处理{Z}?
Why do we need {X}?|Warum brauchen wir {X}?|我们为什么需要{X}?
With {X} the {M} goes up.|Mit {X} steigt {M:der.nom}.|有了{X},{M}就上升了。
Without {X} the {T} fails.|Ohne {X} versagt {T:der.nom}.|没有{X},{T}就会失败。
First we apply {X}, then {X2}.|Zuerst wenden wir {X} an, dann {X2}.|我们先用{X},再用{X2}。
We combine {X} with {X2}.|Wir verbinden {X} mit {X2}.|我们把{X}和{X2}结合起来。
{X} saves {N} percent of the {R}.|{X} spart {N} Prozent an {R}.|{X}节省了百分之{N}的{R}。
We published the {D} in {Y}.|Wir haben {D:der.acc} im Jahr {Y} veröffentlicht.|我们在{Y}年发布了{D}。
{P} published this {D} {W}.|{P} hat {D:dieser.acc} {W} veröffentlicht.|{P}{W}发布了这份{D}。
You can find the {D} on our website.|Sie finden {D:der.acc} auf unserer Webseite.|你可以在我们的网站上找到{D}。
The code will be released {F}.|Der Code erscheint {F}.|代码将在{F}发布。
{N} students checked the {D}.|{N} Studenten haben {D:der.acc} geprüft.|{N}名学生检查了{D}。
On the left you see the {T}.|Links sehen Sie {T:der.acc}.|左边是{T}。
On the right you see the {M} for {L}.|Rechts sehen Sie {M:der.acc} für {L}.|右边是{L}的{M}。
The table shows the {M} of each {T}.|Die Tabelle zeigt {M:der.acc} für {T:jeder.acc}.|表格显示了每个{T}的{M}。
Figure {N} shows the {T}.|Abbildung {N} zeigt {T:der.acc}.|图{N}展示了{T}。
This {T} needs less {R} than before.|{T:dieser.nom} braucht weniger {R} als vorher.|这个{T}需要的{R}比以前少。
We ask whether the {T} is {A}.|Wir fragen, ob {T:der.nom} {A} ist.|我们想知道{T}是否{A}。
We believe that {X} helps with {K}.|Wir glauben, dass {X} bei {K} hilft.|我们相信{X}对{K}有帮助。
{Z} hurts the {M}.|{Z} schadet {M:der.dat}.|{Z}会损害{M}。
Can the {T} learn {L} from {N} examples?|Kann {T:der.nom} {L} aus {N} Beispielen lernen?|{T}能从{N}个例子中学会{L}吗?
The {T} has {N} million parameters.|{T:der.nom} hat {N} Millionen Parameter.|{T}有{N}百万个参数。
Training takes {N} hours on {N2} machines.|Das Training dauert {N} Stunden auf {N2} Rechnern.|训练在{N2}台机器上需要{N}小时。
Thanks to {P} for the {D}.|Danke an {P} für {D:der.acc}.|感谢{P}提供{D}。
Are there any questions about the {T}?|Gibt es Fragen zu {T:der.dat}?|关于{T}有什么问题吗?
Please send your questions to {P}.|Bitte schicken Sie Ihre Fragen an {P}.|请把问题发给{P}。
In {C} we tested {N} speakers.|In {C} haben wir {N} Sprecher getestet.|我们在{C}测试了{N}位说话人。
The next workshop is in {C} in {Y}.|Der nächste Workshop ist {Y} in {C}.|下一届研讨会{Y}年在{C}举行。
Our {T} beats the {T2} by {N} points.|{T:unser.nom} schlägt {T2:der.acc} um {N} Punkte.|我们的{T}比{T2}高{N}分。
For {L} the {T} remains too {A}.|Für {L} bleibt {T:der.nom} zu {A}.|对{L}来说,{T}仍然太{A}。
Neither the {T} nor the {T2} knows {L}.|Weder {T:der.nom} noch {T2:der.nom} kennt {L}.|{T}和{T2}都不懂{L}。
We replaced the {T} with a {T2}.|Wir haben {T:der.acc} durch {T2:ein.acc} ersetzt.|我们用{T2}替换了{T}。
After {N} steps the {T} forgets {L}.|Nach {N} Schritten vergisst {T:der.nom} {L}.|{N}步之后,{T}忘记了{L}。
The {M} depends on the {D}.|{M:der.nom} hängt von {D:der.dat} ab.|{M}取决于{D}。
People in {C} speak {L} and {L2}.|In {C} spricht man {L} und {L2}.|{C}的人说{L}和{L2}。
{P} found {N} errors in the {D}.|{P} hat {N} Fehler in {D:der.dat} gefunden.|{P}在{D}中发现了{N}个错误。
In the future we want to study {K} in {L}.|In Zukunft wollen wir {K} auf {L} untersuchen.|今后我们想研究{L}的{K}。
""".strip().splitlines()
    )
)

OPENERS: tuple[tuple[str, str, str], ...] = (
    ("Well, ", "Nun gut: ", "那么,"),
    ("Okay, ", "Okay: ", "好,"),
    ("Finally: ", "Zum Schluss: ", "最后,"),
    ("Once again: ", "Noch einmal: ", "再说一遍,"),
)
OPENER_SHARE = 0.2

# Determiner, then case, then gender.
_DETERMINERS = {
    "der": {"nom": "der die das", "acc": "den die das", "dat": "dem der dem"},
    "ein": {"nom": "ein eine ein", "acc": "einen eine ein", "dat": "einem einer einem"},
    "unser": {"nom": "unser unsere unser", "acc": "unseren unsere unser", "dat": "unserem unserer unserem"},
    "dieser": {"nom": "dieser diese dieses", "acc": "diesen diese dieses", "dat": "diesem dieser diesem"},
    "jeder": {"nom": "jeder jede jedes", "acc": "jeden jede jedes", "dat": "jedem jeder jedem"},
}
_PRONOUNS = {"m": "er", "f": "sie", "n": "es"}
_FULL_WIDTH = str.maketrans(",?", "\N{FULLWIDTH COMMA}\N{FULLWIDTH QUESTION MARK}")
_FIELD = re.compile(r"\{(\w+?)(?::([\w.]+))?\}")


def _german(word: Word, form: str) -> str:
    if not form:
        return word.de
    if form == "more":
        return word.more[1]
    if form == "er":
        # A noun becomes its pronoun; a language becomes an adjective ("deutscher Sprache").
        return _PRONOUNS[word.gender] if word.gender else word.de.lower() + "er"
    if form in ("en", "e"):
        return word.de + form
    determiner, case = form.split(".")
    by_gender = dict(zip("mfn", _DETERMINERS[determiner][case].split(), strict=True))
    return f"{by_gender[word.gender]} {word.de}"


def _english(word: Word, form: str) -> str:
    return word.more[0] if form == "more" else word.en


def _capitalised(text: str) -> str:
    return text[0].upper() + text[1:]


def render(template: tuple[str, str, str], fillers: dict[str, Word]) -> Sentence:
    """The sentence of a template with its slots filled; `fillers` maps every slot name of the template to a word."""
    english = _FIELD.sub(lambda m: _english(fillers[m[1]], m[2] or ""), template[0])
    english = re.sub(r"\b([Aa]) (?=[aeiouAEIOU])", r"\1n ", english)
    german = _FIELD.sub(lambda m: _german(fillers[m[1]], m[2] or ""), template[1])
    # "zu dem" and "zu der" contract in speech and print.
    german = re.sub(r"\bzu dem\b", "zum", re.sub(r"\bzu der\b", "zur", german))
    chinese = _FIELD.sub(lambda m: fillers[m[1]].zh, template[2]).translate(_FULL_WIDTH)
    return Sentence(_capitalised(english), _capitalised(german), chinese)


def sample(rng: random.Random) -> Sentence:
    """One random sentence; slots of one kind never repeat a filler within it."""
    template = rng.choice(TEMPLATES)
    slots = list(dict.fromkeys(m[1] for m in _FIELD.finditer(" ".join(template))))
    fillers: dict[str, Word] = {}
    for slot in slots:
        free = [word for word in SLOTS[slot[0]] if word not in fillers.values()]
        fillers[slot] = rng.choice(free)
    sentence = render(template, fillers)
    if rng.random() >= OPENER_SHARE:
        return sentence
    en, de, zh = rng.choice(OPENERS)
    inner_en = sentence.en if sentence.en.split()[0] in _KEEP_CAPITAL else sentence.en[0].lower() + sentence.en[1:]
    return Sentence(en + inner_en, de + sentence.de, zh.translate(_FULL_WIDTH) + sentence.zh)


_KEEP_CAPITAL = {"I"} | {word.en.split()[0] for slot in "LPC" for word in SLOTS[slot]}
